"""Build commands of the core for tests of stores."""

from typing import Any

from skillq.messages import Outcome, Task, TaskResult, TaskStatus, WorkerProfile
from skillq_manager.core import commands as c
from tests.support.factories import profile, task

JUNIOR = profile("Junior 1", 3)
SENIOR = profile("Senior", 9)
READY, RUNNING, SUCCEEDED, FAILED = (
    TaskStatus.READY,
    TaskStatus.RUNNING,
    TaskStatus.SUCCEEDED,
    TaskStatus.FAILED,
)


def add(seq: int, new_task: Task | None = None, *, run: str = "default", **more: Any) -> c.AddTask:
    added = new_task or task(str(seq))
    fields: dict[str, Any] = {
        "run_title": run.title(),
        "fingerprint": added.fingerprint(),
        "status": READY,
        "at": 100.0 + seq,
    }
    return c.AddTask((run, added.id), seq, task=added, **(fields | more))


def assign(added: c.AddTask, attempt: int = 1, worker: WorkerProfile = JUNIOR) -> c.Assign:
    return c.Assign(added.key, added.task.type, attempt, worker, 200.0)


def start(added: c.AddTask, attempt: int = 1) -> c.StartAttempt:
    return c.StartAttempt(added.key, added.task.type, attempt, JUNIOR, 201.0)


def end(
    added: c.AddTask,
    outcome: Outcome = Outcome.SUCCEEDED,
    status: TaskStatus = SUCCEEDED,
    *,
    attempt: int = 1,
    reason: str | None = None,
    result: TaskResult | None = None,
) -> c.EndAttempt:
    return c.EndAttempt(
        added.key,
        added.task.type,
        attempt,
        JUNIOR,
        outcome,
        status,
        reason,
        result,
        None,
        0,
        0,
        300.0,
    )


def task_result(added: c.AddTask, attempt: int = 1, **more: Any) -> TaskResult:
    fields = {"outcome": Outcome.SUCCEEDED} | more
    return TaskResult(run=added.key[0], id=added.key[1], attempt=attempt, **fields)
