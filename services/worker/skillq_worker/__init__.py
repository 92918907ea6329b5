"""The worker: takes assignments, runs the user's handlers, reports what came of it."""

from skillq_worker.execution.failures import TaskFailed
from skillq_worker.execution.handlers import Context, Handlers

__all__ = ["Context", "Handlers", "TaskFailed"]
