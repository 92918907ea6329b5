"""The check of idle workers does not count workers that are lost."""

import pytest

from skillq.messages import Outcome, TaskStatus, WorkerEventKind
from skillq_manager.core import commands as c
from tests.simulation.idle_workers import IdleWorkerCheck
from tests.support.factories import profile, task

ADA, BOB = profile("Ada", 5), profile("Bob", 5)


def add(id: str) -> c.AddTask:
    new_task = task(id)
    return c.AddTask(("r", id), 1, "R", new_task, new_task.fingerprint(), TaskStatus.READY, 0.0)


@pytest.mark.parametrize("bob_is_lost", [True, False])
def test_a_lost_worker_is_not_judged_as_idle(bob_is_lost: bool) -> None:
    check = IdleWorkerCheck(0.0, lambda _: float("inf"))
    for who in (ADA, BOB):
        check.add_command(c.SaveWorker(who, WorkerEventKind.CONNECTED, "", 0.0), 0.0)
    for id in ("a", "b", "c"):
        check.add_command(add(id), 0.0)
    check.add_command(c.Assign(("r", "c"), "task", 1, BOB, 0.0), 0.0)
    if bob_is_lost:
        check.add_command(c.SaveWorker(BOB, WorkerEventKind.LOST, "", 1.0), 1.0)
    outcome = Outcome.LOST if bob_is_lost else Outcome.SUCCEEDED
    ended = c.EndAttempt(
        ("r", "c"), "task", 1, BOB, outcome, TaskStatus.READY, None, None, None, 0, 0, 1.0
    )
    check.add_command(ended, 1.0)
    for id in ("a", "b"):
        check.add_command(c.Assign(("r", id), "task", 1, ADA, 1.0), 1.0)
    assert bool(list(check.violations_before(60.0))) is not bob_is_lost
