"""The `skillq` command."""
