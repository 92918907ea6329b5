"""The manager's HTTP interface: API, probes and metrics."""
