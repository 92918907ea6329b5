"""Build tasks, results and workers for tests of lookahead and recall."""

from typing import Any

from skillq.messages import Outcome, Submission
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from tests.support.factories import (
    Driver,
    connect,
    disconnect,
    one,
    pairs,
    report,
    result,
    submission,
    task,
)

SHORT, LONG = 1 / 128, 5.0  # durations in seconds


SHORT_TASKS_PER_SLOT = 13  # a tenth of a second of work


TASK_IDS = [f"t{n:03}" for n in range(200)]


def make_duration_known(do: Driver, seconds: float = SHORT, type: str = "task") -> None:
    """Let a worker do one task of a type and leave, so that the core knows the duration of the type."""
    teacher = connect("teacher", 10, incarnation=type)
    assigned = one(do(teacher, submission(task(f"lesson-{type}", type=type))), c.Assign)
    do(result_after(assigned, seconds), disconnect(assigned.worker))


def result_after(
    assignment: c.Assign, seconds: float = SHORT, outcome: Outcome = Outcome.SUCCEEDED
) -> e.Event:
    """Return a result after so many seconds, by a clock of the worker that differs from the manager's."""
    return report(
        assignment.worker, result(assignment, outcome, started_at=7.0, finished_at=7.0 + seconds)
    )


def returned_result(assignment: c.Assign) -> e.Event:
    return report(assignment.worker, result(assignment, Outcome.RETURNED))


def many_tasks(count: int = 200, **more: Any) -> Submission:
    return submission(*(task(id, **more) for id in TASK_IDS[:count]))


def ids_assigned_to(out: list[c.Command], worker: str = "ada") -> list[str]:
    return [id for id, name in pairs(out) if name == worker]
