"""Prefetched attempts are recalled for idle workers, and time out only after their start."""

from typing import Any
from unittest.mock import patch

from skillq.messages import AttemptRef, Outcome
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch import recall
from tests.support.factories import (
    Driver,
    connect,
    heartbeat,
    one,
    pairs,
    pick,
    progress,
    ref,
    submission,
    task,
)
from tests.support.lookahead_builders import (
    TASK_IDS,
    ids_assigned_to,
    make_duration_known,
    many_tasks,
    result_after,
    returned_result,
)

# --- recall ----------------------------------------------------------------------------------


def prefetch(do: Driver, count: int = 5, **more: Any) -> list[c.Assign]:
    """Assign prefetched tasks to ada, behind a task that takes longer than expected."""
    make_duration_known(do)
    do(after=1.0)
    return pick(do(connect("ada"), many_tasks(count, **more)), c.Assign)


def refs(*assignments: c.Assign) -> tuple[AttemptRef, ...]:
    return tuple(ref(a) for a in assignments)


def test_an_attempt_that_waits_too_long_is_recalled_for_an_idle_worker(do: Driver) -> None:
    held = prefetch(do)
    assert not pick(do(connect("bob")), c.RecallAttempts)
    at = do.state.next_deadline()
    assert at is not None
    assert at - do.now <= 0.2
    recalled = one(do(after=0.2), c.RecallAttempts)
    assert (recalled.worker.name, recalled.attempts) == ("ada", refs(held[-1]))
    assert pairs(do(returned_result(held[-1]))) == [(held[-1].key[1], "bob")]


def test_nothing_is_recalled_if_no_attempt_waits_for_long(do: Driver) -> None:
    held = prefetch(do)
    do(connect("bob"), after=0.15)
    held += pick(do(*map(result_after, held[:4])), c.Assign)
    assert not pick(do(after=0.15), c.RecallAttempts)


def test_the_newest_attempts_are_recalled_one_for_each_idle_slot(do: Driver) -> None:
    held = prefetch(do, 8)
    do(connect("bob", slots=2), connect("cyd"))
    assert one(do(paused=0.3), c.RecallAttempts).attempts == refs(*reversed(held[-3:]))


def test_an_attempt_that_no_idle_worker_can_do_is_not_recalled(do: Driver) -> None:
    held = prefetch(do, 3, difficulty=5)
    do(connect("bob", 4), paused=0.3)
    assert not pick(do(paused=0.3), c.RecallAttempts)
    do(connect("cyd", 5))
    assert one(do(paused=0.3), c.RecallAttempts).attempts == refs(held[-1])


def test_an_attempt_that_has_started_is_not_recalled(do: Driver) -> None:
    held = prefetch(do, 3)
    do(connect("bob", slots=5), *map(progress, held), paused=0.3)
    assert not pick(do(paused=0.3), c.RecallAttempts)


def test_a_worker_that_returns_a_recalled_attempt_is_not_draining(do: Driver) -> None:
    held = prefetch(do)
    do(connect("bob"), paused=0.3)
    do(returned_result(held[-1]))
    assert not do.state.workers.workers["ada"].draining
    do(returned_result(held[-2]))  # no recall named this attempt
    assert do.state.workers.workers["ada"].draining


def test_after_a_recall_a_worker_gets_no_prefetched_tasks_until_its_next_result(
    do: Driver,
) -> None:
    held = prefetch(do)
    do(connect("bob"), paused=0.3)
    do(returned_result(held[-1]))
    out = do(submission(task("one"), task("two"), run="more"))
    assert ids_assigned_to(out) == []
    assert ids_assigned_to(out, "bob") == ["one", "two"]
    do(submission(task("three"), run="more"), result_after(held[0]))
    assert do.state.workers.workers["ada"].recall_pending is False


def test_a_recall_that_is_lost_is_sent_again(do: Driver) -> None:
    held = prefetch(do)
    do(connect("bob"), paused=0.3)
    assert not pick(do(paused=0.5), c.RecallAttempts)
    assert one(do(paused=0.5), c.RecallAttempts).attempts == refs(held[-1])


def test_a_recall_of_an_attempt_that_has_started_changes_nothing(do: Driver) -> None:
    held = prefetch(do)
    do(connect("bob"), paused=0.3)
    do(progress(held[-1]), *map(result_after, held))
    assert do.state.is_idle


def test_nothing_is_recalled_while_heartbeats_are_lost(do: Driver) -> None:
    prefetch(do)
    do(connect("bob"), e.HeartbeatsLost())
    assert not pick(do(paused=0.5), c.RecallAttempts)
    do(e.HeartbeatsRecovered())
    assert not pick(do(paused=0.1), c.RecallAttempts)
    assert pick(do(paused=0.2), c.RecallAttempts)


def test_each_check_for_recalls_looks_at_a_limited_number_of_attempts(do: Driver) -> None:
    # The next check begins where this one ended.
    make_duration_known(do)
    do(connect("ada", specialties=("x",)), many_tasks(4, requires=("x",)))
    held = pick(
        do(connect("bob"), submission(*(task(f"b{n}") for n in range(4)), run="b")), c.Assign
    )
    with patch.object(recall, "_ATTEMPTS_PER_CHECK", 2):
        do(connect("cyd"))
        recalls = [pick(do(paused=0.2), c.RecallAttempts) for _ in range(2)]
    assert recalls[0] == []
    assert one(recalls[1], c.RecallAttempts).attempts == refs(held[-1])


# --- timeouts ------------------------------------------------------------------------------------


def test_a_prefetched_attempt_does_not_time_out(do: Driver) -> None:
    make_duration_known(do)
    held = pick(do(connect(), many_tasks(2, timeout=5.0)), c.Assign)
    do(progress(held[0]))
    out = []
    for _ in range(9):
        out += do(heartbeat(held[0].worker, *map(ref, held)), after=4.0)
    ended = one(out, c.EndAttempt)
    assert (ended.key[1], ended.outcome) == (TASK_IDS[0], Outcome.TIMED_OUT)


def test_the_timeout_of_a_prefetched_attempt_counts_from_its_start(do: Driver) -> None:
    make_duration_known(do)
    held = pick(do(connect(), many_tasks(2, timeout=5.0)), c.Assign)
    do(after=18.0)
    do(heartbeat(held[0].worker, *map(ref, held)), result_after(held[0]), progress(held[1]))
    assert not pick(with_heartbeats(do, held[1], 19.0), c.EndAttempt)
    assert one(with_heartbeats(do, held[1], 2.0), c.EndAttempt).outcome is Outcome.TIMED_OUT


def test_an_attempt_whose_start_is_never_reported_times_out_all_the_same(do: Driver) -> None:
    make_duration_known(do)
    held = pick(do(connect(), many_tasks(2, timeout=5.0)), c.Assign)
    do(result_after(held[0]))
    assert not pick(with_heartbeats(do, held[1], 21.0), c.EndAttempt)
    assert one(with_heartbeats(do, held[1], 20.0), c.EndAttempt).outcome is Outcome.TIMED_OUT


def with_heartbeats(do: Driver, held: c.Assign, seconds: float) -> list[c.Command]:
    out = []
    for _ in range(int(seconds)):
        out += do(heartbeat(held.worker, ref(held)), after=1.0)
    return out


def test_a_lost_assignment_comes_after_assignments_that_arrived(do: Driver) -> None:
    make_duration_known(do)
    held = pick(do(connect(), many_tasks(3)), c.Assign)
    out = do(heartbeat(held[0].worker, *map(ref, held[1:])), after=11.0)
    assert one(out, c.Resend).key == held[0].key
    order = [id for _, id in do.state.workers.workers["ada"].attempts]
    assert order == [*TASK_IDS[1:3], TASK_IDS[0]]
