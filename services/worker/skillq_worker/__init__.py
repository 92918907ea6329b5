"""The worker: receives assignments, runs the user's handlers and reports the results."""

from skillq_worker.execution.failures import TaskFailed
from skillq_worker.execution.handlers import Context, Handlers

__all__ = ["Context", "Handlers", "TaskFailed"]
