"""Outbound: the commands of the core as messages, log events and counters."""
