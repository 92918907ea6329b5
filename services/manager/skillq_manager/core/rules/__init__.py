"""The rules: pure functions and tables, each of which decides one thing."""
