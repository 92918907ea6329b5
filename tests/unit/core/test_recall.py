"""What waits at one worker while another idles is taken back; that it waited is nobody's fault."""

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
from tests.unit.core.busy import MANY, back, given, lasted, many, teach

# --- recall ----------------------------------------------------------------------------------


def crowded(do: Driver, count: int = 5, **more: Any) -> list[c.Assign]:
    """Ada has tasks waiting behind one that takes longer than it should."""
    teach(do)
    do(after=1.0)
    return pick(do(connect("ada"), many(count, **more)), c.Assign)


def refs(*of: c.Assign) -> tuple[AttemptRef, ...]:
    return tuple(ref(a) for a in of)


def test_what_waits_for_too_long_is_handed_back_for_one_that_is_idle(do: Driver) -> None:
    held = crowded(do)
    assert not pick(do(connect("bob")), c.RecallAttempts)
    at = do.state.next_deadline()
    assert at is not None
    assert at - do.now <= 0.2
    recalled = one(do(after=0.2), c.RecallAttempts)
    assert (recalled.worker.name, recalled.attempts) == ("ada", refs(held[-1]))
    assert pairs(do(back(held[-1]))) == [(held[-1].key[1], "bob")]


def test_nobody_is_recalled_from_where_nothing_waits_for_long(do: Driver) -> None:
    held = crowded(do)
    do(connect("bob"), after=0.15)
    held += pick(do(*map(lasted, held[:4])), c.Assign)
    assert not pick(do(after=0.15), c.RecallAttempts)


def test_the_newest_are_recalled_and_as_many_as_there_are_idle_slots_for(do: Driver) -> None:
    held = crowded(do, 8)
    do(connect("bob", slots=2), connect("cyd"))
    assert one(do(paused=0.3), c.RecallAttempts).attempts == refs(*reversed(held[-3:]))


def test_what_an_idle_worker_cannot_do_stays(do: Driver) -> None:
    held = crowded(do, 3, difficulty=5)
    do(connect("bob", 4), paused=0.3)
    assert not pick(do(paused=0.3), c.RecallAttempts)
    do(connect("cyd", 5))
    assert one(do(paused=0.3), c.RecallAttempts).attempts == refs(held[-1])


def test_what_has_begun_is_not_recalled(do: Driver) -> None:
    held = crowded(do, 3)
    do(connect("bob", slots=5), *map(progress, held), paused=0.3)
    assert not pick(do(paused=0.3), c.RecallAttempts)


def test_a_worker_that_hands_back_what_was_recalled_is_not_leaving(do: Driver) -> None:
    held = crowded(do)
    do(connect("bob"), paused=0.3)
    do(back(held[-1]))
    assert not do.state.workers.workers["ada"].draining
    do(back(held[-2]))  # nobody has asked for that
    assert do.state.workers.workers["ada"].draining


def test_a_worker_from_which_was_recalled_gets_nothing_ahead_until_it_has_done_something(
    do: Driver,
) -> None:
    held = crowded(do)
    do(connect("bob"), paused=0.3)
    do(back(held[-1]))
    out = do(submission(task("one"), task("two"), run="more"))
    assert given(out) == []
    assert given(out, "bob") == ["one", "two"]
    do(submission(task("three"), run="more"), lasted(held[0]))
    assert do.state.workers.workers["ada"].recall_pending is False


def test_a_recall_that_is_lost_is_tried_again(do: Driver) -> None:
    held = crowded(do)
    do(connect("bob"), paused=0.3)
    assert not pick(do(paused=0.5), c.RecallAttempts)
    assert one(do(paused=0.5), c.RecallAttempts).attempts == refs(held[-1])


def test_a_recall_that_came_too_late_changes_nothing(do: Driver) -> None:
    held = crowded(do)
    do(connect("bob"), paused=0.3)
    do(progress(held[-1]), *map(lasted, held))
    assert do.state.is_idle


def test_nothing_is_recalled_while_the_manager_cannot_hear(do: Driver) -> None:
    crowded(do)
    do(connect("bob"), e.HeartbeatsLost())
    assert not pick(do(paused=0.5), c.RecallAttempts)
    do(e.HeartbeatsRecovered())
    assert not pick(do(paused=0.1), c.RecallAttempts)
    assert pick(do(paused=0.2), c.RecallAttempts)


def test_of_very_many_that_wait_each_look_sees_some(do: Driver) -> None:
    """And the next look begins where this one ended."""
    teach(do)
    do(connect("ada", specialties=("x",)), many(4, requires=("x",)))
    held = pick(
        do(connect("bob"), submission(*(task(f"b{n}") for n in range(4)), run="b")), c.Assign
    )
    with patch.object(recall, "_ATTEMPTS_PER_CHECK", 2):
        do(connect("cyd"))
        looks = [pick(do(paused=0.2), c.RecallAttempts) for _ in range(2)]
    assert looks[0] == []
    assert one(looks[1], c.RecallAttempts).attempts == refs(held[-1])


# --- time ------------------------------------------------------------------------------------


def test_an_attempt_that_waits_is_not_overdue(do: Driver) -> None:
    teach(do)
    held = pick(do(connect(), many(2, timeout=5.0)), c.Assign)
    do(progress(held[0]))
    out = []
    for _ in range(9):
        out += do(heartbeat(held[0].worker, *map(ref, held)), after=4.0)
    ended = one(out, c.EndAttempt)
    assert (ended.key[1], ended.outcome) == (MANY[0], Outcome.TIMED_OUT)


def test_its_time_counts_from_when_it_begins(do: Driver) -> None:
    teach(do)
    held = pick(do(connect(), many(2, timeout=5.0)), c.Assign)
    do(after=18.0)
    do(heartbeat(held[0].worker, *map(ref, held)), lasted(held[0]), progress(held[1]))
    assert not pick(beating(do, held[1], 19.0), c.EndAttempt)
    assert one(beating(do, held[1], 2.0), c.EndAttempt).outcome is Outcome.TIMED_OUT


def test_one_of_which_is_never_heard_that_it_has_begun_ends_all_the_same(do: Driver) -> None:
    teach(do)
    held = pick(do(connect(), many(2, timeout=5.0)), c.Assign)
    do(lasted(held[0]))
    assert not pick(beating(do, held[1], 21.0), c.EndAttempt)
    assert one(beating(do, held[1], 20.0), c.EndAttempt).outcome is Outcome.TIMED_OUT


def beating(do: Driver, held: c.Assign, seconds: float) -> list[c.Command]:
    out = []
    for _ in range(int(seconds)):
        out += do(heartbeat(held.worker, ref(held)), after=1.0)
    return out


def test_an_assignment_that_was_lost_comes_after_those_that_arrived(do: Driver) -> None:
    teach(do)
    held = pick(do(connect(), many(3)), c.Assign)
    out = do(heartbeat(held[0].worker, *map(ref, held[1:])), after=11.0)
    assert one(out, c.Resend).key == held[0].key
    order = [id for _, id in do.state.workers.workers["ada"].attempts]
    assert order == [*MANY[1:3], MANY[0]]
