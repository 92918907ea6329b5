"""The worker: takes assignments, runs the user's handlers, reports what came of it."""

from skillq_worker.failing import TaskFailed
from skillq_worker.handlers import Context, Handlers

__all__ = ["Context", "Handlers", "TaskFailed"]
