"""Inbound: everything that arrives for the manager, received and prepared for the core."""
