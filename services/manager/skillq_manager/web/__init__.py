"""The manager's window: API, probes, metrics."""
