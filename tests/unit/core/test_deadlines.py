"""Tasks end at their deadlines, and attempts at their timeouts."""

from typing import Any

import pytest

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.rules.retry import RetryPolicy
from tests.support.factories import (
    Driver,
    connect,
    heartbeat,
    one,
    pick,
    profile,
    progress,
    ref,
    results,
    submission,
    task,
)

S = TaskStatus
ADA, BOB = profile("ada"), profile("bob")


@pytest.fixture
def do() -> Driver:
    return Driver(chance=0.0)  # no jitter: retries are immediate


def heartbeats(*workers: Any) -> list[Any]:
    return [heartbeat(one) for one in workers]


# --- deadlines


def test_a_deadline_ends_a_task_in_any_status() -> None:
    do = Driver(retries=RetryPolicy(base=200.0))  # the jitter is one half
    do(connect(), after=1.0)
    do(*heartbeats(ADA), after=14.0)
    do(*heartbeats(ADA), after=1.0)
    late: dict[str, Any] = {"deadline": 10, "max_attempts": 2}
    held = one(do(connect(slots=1), submission(task("back-off", **late))), c.Assign)
    do(results(held, Outcome.FAILED))
    other = one(do(submission(task("held", **late))), c.Assign)
    do(progress(other), submission(task("ready", **late)))
    do(submission(task("blocked", depends_on=("held",), **late)))
    assert not pick(do(*heartbeats(ADA), after=9.5), c.SetStatus)
    out = do(after=0.5)
    assert {x.key[1]: (x.status, x.reason) for x in pick(out, c.SetStatus)} == {
        "back-off": (S.TIMED_OUT, "its deadline of 10 s is over"),
        "ready": (S.TIMED_OUT, "its deadline of 10 s is over"),
        "blocked": (S.FAILED, "dependency held timed_out"),
    }
    end = one(out, c.EndAttempt)
    assert (end.outcome, end.status) == (Outcome.TIMED_OUT, S.TIMED_OUT)
    assert one(out, c.CancelAttempts).attempts == (ref(other),)
    assert do.state.is_idle
    assert do.state.tasks.timers.next_at() is None


def test_a_blocked_task_times_out_at_its_own_deadline(do: Driver) -> None:
    do(submission(task("a", 9), task("b", depends_on=("a",), deadline=10)))
    assert one(do(after=10.0), c.SetStatus).reason == "its deadline of 10 s is over"


def test_a_task_that_has_ended_does_not_time_out_at_its_deadline(do: Driver) -> None:
    do(results(one(do(connect(), submission(task(deadline=10))), c.Assign)))
    assert not pick(do(*heartbeats(ADA), after=11.0), c.SetStatus)


def test_a_failure_after_the_deadline_is_not_retried(do: Driver) -> None:
    # A running attempt may end after the deadline, because its result can be on its way.
    held = one(do(connect(), submission(task(deadline=10, max_attempts=5))), c.Assign)
    assert not pick(do(paused=11.0), c.EndAttempt)
    end = one(do(results(held, Outcome.FAILED)), c.EndAttempt)
    assert (end.outcome, end.status) == (Outcome.FAILED, S.TIMED_OUT)
    assert do.state.is_idle


# --- timeouts of attempts


def test_the_manager_times_an_attempt_out_if_its_worker_does_not(do: Driver) -> None:
    held = one(
        do(connect("ada"), connect("bob"), submission(task(timeout=5, max_attempts=2))), c.Assign
    )
    assert not pick(do(*heartbeats(ADA, BOB), after=19.5), c.EndAttempt)
    out = do(*heartbeats(ADA, BOB), after=0.5)
    assert one(out, c.CancelAttempts) == c.CancelAttempts(held.worker, "", (ref(held),))
    end = one(out, c.EndAttempt)
    assert (end.outcome, end.status, end.reason) == (
        Outcome.TIMED_OUT,
        S.READY,
        "took longer than 5 s",
    )
    assert one(out, c.Assign).worker == BOB
    assert isinstance(do(results(held))[0], c.RecordStaleResult)


def test_each_attempt_has_its_own_timeout(do: Driver) -> None:
    held = one(do(connect(), submission(task(timeout=5, max_attempts=2))), c.Assign)
    again = one(do(results(held, Outcome.FAILED), after=14.0), c.Assign)
    assert again.attempt == 2
    do(*heartbeats(ADA), after=10.0)
    assert not pick(do(*heartbeats(ADA), after=9.0), c.EndAttempt)
    assert one(do(after=1.0), c.EndAttempt).attempt == 2


def test_a_timeout_detected_by_the_manager_is_retried_like_one_of_the_worker(do: Driver) -> None:
    do(connect(), submission(task(timeout=5, max_attempts=2, retry_on=("TimeoutError",))))
    assert one(do(*heartbeats(ADA), after=20.0), c.EndAttempt).status is S.READY


def test_attempts_do_not_time_out_while_heartbeats_are_lost(do: Driver) -> None:
    held = one(do(connect(), submission(task(timeout=5))), c.Assign)
    do(e.HeartbeatsLost())
    assert do(after=60.0) == []
    do(e.HeartbeatsRecovered())
    assert not pick(do(*heartbeats(ADA), after=14.0), c.EndAttempt)
    assert one(do(results(held)), c.EndAttempt).status is S.SUCCEEDED


def test_attempts_do_not_time_out_while_the_manager_stalls(do: Driver) -> None:
    held = one(do(connect(), submission(task(timeout=5))), c.Assign)
    assert do(paused=60.0) == []
    assert not pick(do(*heartbeats(ADA), after=14.0), c.EndAttempt)
    assert one(do(results(held)), c.EndAttempt).status is S.SUCCEEDED
