"""Workers that have more than they have slots for."""

from typing import Any

from skillq.messages import Outcome, Submission
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from tests.factories import (
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

SHORT, LONG = 1 / 128, 5.0  # seconds


SHORT_TASKS_PER_SLOT = 13  # as many short ones as a slot has within a tenth of a second


TASK_IDS = [f"t{n:03}" for n in range(200)]


def make_duration_known(do: Driver, seconds: float = SHORT, type: str = "task") -> None:
    """Somebody does one of that type, and leaves."""
    who = connect("teacher", 10, incarnation=type)
    assigned = one(do(who, submission(task(f"lesson-{type}", type=type))), c.Assign)
    do(result_after(assigned, seconds), disconnect(assigned.worker))


def result_after(
    of: c.Assign, seconds: float = SHORT, outcome: Outcome = Outcome.SUCCEEDED
) -> e.Event:
    """It took so long, by a clock that nobody here knows."""
    return report(of.worker, result(of, outcome, started_at=7.0, finished_at=7.0 + seconds))


def returned_result(of: c.Assign) -> e.Event:
    return report(of.worker, result(of, Outcome.RETURNED))


def many_tasks(count: int = 200, **more: Any) -> Submission:
    return submission(*(task(id, **more) for id in TASK_IDS[:count]))


def ids_assigned_to(out: list[c.Command], who: str = "ada") -> list[str]:
    return [id for id, name in pairs(out) if name == who]
