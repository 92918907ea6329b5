"""The manager's decisions, without I/O: from events and a time to commands."""
