"""Execution: how the attempts of a worker run."""
