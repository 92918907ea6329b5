"""What the core decides, for a store to write down."""

from typing import Any

from skillq.messages import Outcome, Task, TaskResult, TaskStatus, WorkerProfile
from skillq_manager.core import commands as c
from tests.factories import profile, task

JUNIOR = profile("Junior 1", 3)
SENIOR = profile("Senior", 9)
READY, RUNNING, SUCCEEDED, FAILED = (
    TaskStatus.READY,
    TaskStatus.RUNNING,
    TaskStatus.SUCCEEDED,
    TaskStatus.FAILED,
)


def add(seq: int, what: Task | None = None, *, run: str = "default", **more: Any) -> c.AddTask:
    what = what or task(str(seq))
    fields: dict[str, Any] = {
        "run_title": run.title(),
        "fingerprint": what.fingerprint(),
        "status": READY,
        "at": 100.0 + seq,
    }
    return c.AddTask((run, what.id), seq, task=what, **(fields | more))


def assign(of: c.AddTask, attempt: int = 1, worker: WorkerProfile = JUNIOR) -> c.Assign:
    return c.Assign(of.key, of.task.type, attempt, worker, 200.0)


def start(of: c.AddTask, attempt: int = 1) -> c.StartAttempt:
    return c.StartAttempt(of.key, of.task.type, attempt, JUNIOR, 201.0)


def end(
    of: c.AddTask,
    outcome: Outcome = Outcome.SUCCEEDED,
    status: TaskStatus = SUCCEEDED,
    *,
    attempt: int = 1,
    reason: str | None = None,
    result: TaskResult | None = None,
) -> c.EndAttempt:
    return c.EndAttempt(
        of.key, of.task.type, attempt, JUNIOR, outcome, status, reason, result, None, 0, 0, 300.0
    )


def said(of: c.AddTask, attempt: int = 1, **more: Any) -> TaskResult:
    fields = {"outcome": Outcome.SUCCEEDED} | more
    return TaskResult(run=of.key[0], id=of.key[1], attempt=attempt, **fields)
