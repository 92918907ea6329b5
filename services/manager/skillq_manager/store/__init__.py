"""The port to what lasts (`base`), and its implementations."""
