"""The manager's decisions, without I/O: events, a time and random numbers in, commands out."""
