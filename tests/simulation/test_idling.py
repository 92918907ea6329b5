"""The judge of idleness: who is not there idles at nobody's cost."""

import pytest

from skillq.messages import Outcome, TaskStatus, WorkerEventKind
from skillq_manager.core import commands as c
from tests.factories import profile, task
from tests.simulation.idling import Idling

ADA, BOB = profile("Ada", 5), profile("Bob", 5)


def add(id: str) -> c.AddTask:
    one = task(id)
    return c.AddTask(("r", id), 1, "R", one, one.fingerprint(), TaskStatus.READY, 0.0)


@pytest.mark.parametrize("bob_is_lost", [True, False])
def test_a_worker_that_was_lost_with_what_it_had_is_not_taken_for_idle(bob_is_lost: bool) -> None:
    idling = Idling(0.0, lambda _: float("inf"))
    for who in (ADA, BOB):
        idling.take(c.SaveWorker(who, WorkerEventKind.CONNECTED, "", 0.0), 0.0)
    for id in ("a", "b", "c"):
        idling.take(add(id), 0.0)
    idling.take(c.Assign(("r", "c"), "task", 1, BOB, 0.0), 0.0)
    if bob_is_lost:
        idling.take(c.SaveWorker(BOB, WorkerEventKind.LOST, "", 1.0), 1.0)
    outcome = Outcome.LOST if bob_is_lost else Outcome.SUCCEEDED
    ended = c.EndAttempt(
        ("r", "c"), "task", 1, BOB, outcome, TaskStatus.READY, None, None, None, 0, 0, 1.0
    )
    idling.take(ended, 1.0)
    for id in ("a", "b"):
        idling.take(c.Assign(("r", id), "task", 1, ADA, 1.0), 1.0)
    assert bool(list(idling.before(60.0))) is not bob_is_lost
