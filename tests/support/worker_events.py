"""The worker of the tests of the fleet, and what is told of it."""

from skillq.messages import TaskStatus, WorkerEventKind
from skillq_manager.core import commands as c
from tests.factories import (
    pick,
    profile,
)

S, Kind = TaskStatus, WorkerEventKind


ADA = profile("ada")


RESTARTED_ADA = profile("ada", incarnation="2")


def worker_events(out: list[c.Command]) -> list[tuple[WorkerEventKind, str]]:
    return [(save.event, save.reason) for save in pick(out, c.SaveWorker)]
