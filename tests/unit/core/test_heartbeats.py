"""Attempts that a heartbeat names are compared with assigned attempts: cancelled, or sent again."""

from dataclasses import replace

import pytest

from skillq.messages import Heartbeat, Outcome, TaskStatus, WorkerEventKind
from skillq_manager.core import commands as c
from tests.support.command_summaries import worker_events
from tests.support.factories import (
    Driver,
    connect,
    heartbeat,
    one,
    pairs,
    pick,
    profile,
    progress,
    ref,
    results,
    returned,
    submission,
    task,
)

S = TaskStatus
ADA, RESTARTED_ADA = profile("ada"), profile("ada", incarnation="2")

# --- attempts that a heartbeat names


def test_an_attempt_that_is_not_the_workers_own_is_cancelled(do: Driver, held: c.Assign) -> None:
    do(results(held))
    cancel = one(do(heartbeat(ADA, ref(held))), c.CancelAttempts)
    assert (cancel.worker, cancel.attempts) == (ADA, (ref(held),))


def test_an_older_attempt_of_the_same_task_is_cancelled(do: Driver, held: c.Assign) -> None:
    old = ref(held).model_copy(update={"attempt": 0})
    assert one(do(heartbeat(ADA, ref(held), old)), c.CancelAttempts).attempts == (old,)


def test_an_assignment_that_heartbeats_do_not_name_is_resent(do: Driver, held: c.Assign) -> None:
    assert do(heartbeat(ADA), after=9.0) == []
    assert one(do(heartbeat(ADA), after=1.0), c.Resend) == c.Resend(held.key, 1, ADA)
    assert do(heartbeat(ADA), after=9.0) == []


def test_an_attempt_that_the_heartbeat_names_is_not_resent(do: Driver, held: c.Assign) -> None:
    assert do(heartbeat(ADA, ref(held)), after=10.0) == []


def test_a_part_of_a_heartbeat_shows_as_missing_only_attempts_in_its_range(do: Driver) -> None:
    out = do(connect(slots=9), submission(*(task(id) for id in "abcd")))
    a, b, c_, d = sorted(pick(out, c.Assign), key=lambda one: one.key)
    worker = profile(slots=9)

    def part(*held: c.Assign, above: str = "", upto: str | None = None) -> Heartbeat:
        bounds = {"above": above, "upto": upto}
        return heartbeat(worker, *map(ref, held)).model_copy(update=bounds)

    def missing(*parts: Heartbeat) -> list[str]:
        return [resend.key[1] for resend in pick(do(*parts), c.Resend)]

    assert do(heartbeat(worker, *map(ref, (a, b, c_, d))), after=10.0) == []
    run = a.key[0]
    first, last = part(a, b, upto=f"{run}/b"), part(c_, d, above=f"{run}/b")
    assert do(first, last) == []
    assert do(last, first) == []
    assert do(last) == [], "the other part may be lost"
    assert missing(part(a, upto=f"{run}/b")) == ["b"]
    assert missing(part(d, above=f"{run}/b")) == ["c"]
    assert missing(part(a, b, c_, d)) == []


def test_an_unknown_attempt_in_any_part_of_a_heartbeat_is_cancelled(
    do: Driver, held: c.Assign
) -> None:
    unknown = ref(held).model_copy(update={"id": "z"})
    part = heartbeat(ADA, unknown).model_copy(update={"above": f"{held.key[0]}/m"})
    assert do(part, after=10.0) == [c.CancelAttempts(ADA, heartbeat(ADA).store, (unknown,))]


def test_a_draining_worker_gets_nothing_new_until_it_resumes(do: Driver) -> None:
    do(connect(), heartbeat(ADA, draining=True))
    assert not pairs(do(submission(task())))
    assert pairs(do(heartbeat(ADA))) == [("a", "ada")]


# --- returned assignments


def test_a_returned_assignment_goes_to_another_worker(do: Driver, held: c.Assign) -> None:
    out = do(connect("bob"), returned(held))
    assert worker_events(out)[1:] == [(WorkerEventKind.SUSPECT, "its queue was gone")]
    assert one(out, c.EndAttempt).outcome is Outcome.RETURNED
    assert pairs(out) == [("a", "bob")]


def test_a_worker_with_a_returned_assignment_gets_nothing_until_its_next_heartbeat(
    do: Driver, held: c.Assign
) -> None:
    assert not pairs(do(returned(held)))
    assert pairs(do(heartbeat(ADA))) == [("a", "ada")]


def test_a_started_attempt_continues_when_its_resent_assignment_comes_back(
    do: Driver, held: c.Assign
) -> None:
    do(progress(held))
    assert not pick(do(returned(held)), c.EndAttempt)
    assert one(do(results(held)), c.EndAttempt).status is S.SUCCEEDED


def test_an_assignment_returned_after_its_result_changes_nothing(
    do: Driver, held: c.Assign
) -> None:
    do(results(held))
    assert not pick(do(returned(held)), c.EndAttempt)
    other = replace(held, worker=RESTARTED_ADA)
    assert do(returned(other)) == []


def test_an_attempt_of_another_store_is_cancelled_and_not_taken_for_a_current_one(
    do: Driver, held: c.Assign
) -> None:
    old = heartbeat(ADA, ref(held)).model_copy(update={"store": "lost"})
    out = do(old, after=10.0)
    assert one(out, c.CancelAttempts) == c.CancelAttempts(ADA, "lost", (ref(held),))
    assert one(out, c.Resend).key == held.key


# --- returned attempts, and results of a lost worker


@pytest.mark.parametrize("outcome", [Outcome.RETURNED, Outcome.CANCELLED])
def test_a_worker_that_returns_an_attempt_gets_nothing_until_its_next_heartbeat(
    do: Driver, held: c.Assign, outcome: Outcome
) -> None:
    out = do(results(held, outcome))
    assert one(out, c.EndAttempt).status is S.READY
    assert one(out, c.EndAttempt).failures == 0
    assert not pairs(out)
    assert not pairs(do(connect()))
    assert pairs(do(heartbeat(ADA))) == [("a", "ada")]


def test_results_that_arrive_in_the_round_of_the_workers_loss_count(
    do: Driver, held: c.Assign
) -> None:
    out = do(results(held), connect(incarnation="2"))
    assert one(out, c.EndAttempt).status is S.SUCCEEDED
    do(submission(task("b")))
    held = c.Assign(("default", "b"), "task", 1, RESTARTED_ADA, 0.0)
    out = do(results(held), paused=31.0)  # it was silent for so long
    assert one(out, c.EndAttempt).status is S.SUCCEEDED


def test_a_result_after_the_loss_of_its_worker_is_stale(do: Driver, held: c.Assign) -> None:
    out = do(connect(incarnation="2"), results(held))
    assert one(out, c.EndAttempt).outcome is Outcome.LOST
    assert one(out, c.RecordStaleResult).worker == "ada"
    assert one(out, c.Assign).attempt == 2
