"""The rules of the core: pure functions and tables, each of which decides one thing."""
