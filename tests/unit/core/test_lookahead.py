"""Workers get short tasks ahead of their slots, as many as hide the round trip; idle ones get what waits elsewhere."""

from typing import Any
from unittest.mock import patch

import pytest

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch import lookahead
from skillq_manager.core.dispatch.lookahead import LookaheadPolicy
from skillq_manager.core.rules.matching import Arrival
from skillq_manager.store.base import LiveRow
from tests.support.factories import (
    Driver,
    connect,
    disconnect,
    heartbeat,
    live_row,
    one,
    pairs,
    pick,
    profile,
    ref,
    report,
    result,
    submission,
    task,
)
from tests.unit.core.busy import LONG, MANY, ROOM, given, lasted, many, teach

# --- how much --------------------------------------------------------------------------------


def test_of_a_type_of_which_nothing_is_known_nothing_waits_at_a_worker(do: Driver) -> None:
    out = do(connect(slots=3), many())
    assert given(out) == MANY[:3]


def test_after_the_first_result_a_worker_has_a_tenth_of_a_second_of_work(do: Driver) -> None:
    first = pick(do(connect(), many()), c.Assign)[0]
    assert given(do(lasted(first))) == MANY[1 : 1 + ROOM]


def test_with_every_result_it_gets_one_more(do: Driver) -> None:
    teach(do)
    held = pick(do(connect(), many()), c.Assign)
    assert len(held) == ROOM
    assert given(do(lasted(held[0]), lasted(held[1]))) == MANY[ROOM : ROOM + 2]


def test_a_worker_with_many_slots_has_more_waiting(do: Driver) -> None:
    teach(do)
    assert len(given(do(connect(slots=4), many()))) == 52


def test_long_tasks_do_not_wait_at_workers(do: Driver) -> None:
    teach(do, LONG)
    assert given(do(connect(slots=2), many())) == MANY[:2]


def test_a_long_task_takes_a_slot_and_short_ones_wait_for_the_others(do: Driver) -> None:
    teach(do, LONG, "film")
    teach(do)
    film = submission(task("film", type="film", priority=9), run="other")
    assert len(given(do(connect(slots=2), film, many()))) == 1 + ROOM


def test_a_long_task_that_waits_has_none_behind_it(do: Driver) -> None:
    teach(do, LONG, "film")
    teach(do)
    do(connect(), many(3, priority=9))
    film = submission(task("film", type="film", priority=5), run="other")
    assert given(do(film)) == ["film"]
    assert not given(do(submission(task("next"), run="other")))


def test_however_short_no_more_wait_than_the_policy_says() -> None:
    do = Driver(lookahead=LookaheadPolicy(max_prefetched=5))
    teach(do, 0.0)
    assert given(do(connect(slots=2), many())) == MANY[:7]


def test_no_task_is_taken_to_be_shorter_than_the_shortest() -> None:
    do = Driver(lookahead=LookaheadPolicy(max_seconds=0.00995))
    teach(do, 0.0)
    assert len(given(do(connect(), many()))) == 100


@pytest.mark.parametrize(("began", "ended"), [(None, 7.0), (7.0, None), (7.0, 6.0)])
def test_what_no_clock_can_have_shown_teaches_nothing(
    do: Driver, began: float | None, ended: float | None
) -> None:
    first = pick(do(connect(), many()), c.Assign)[0]
    said = report(first.worker, result(first, started_at=began, finished_at=ended))
    assert given(do(said)) == MANY[1:2]


def test_how_long_tasks_take_is_learned_anew_with_every_result(do: Driver) -> None:
    teach(do)
    held = pick(do(connect(), many()), c.Assign)
    assert given(do(*(lasted(a, LONG) for a in held[:3]))) == MANY[ROOM : ROOM + 1]
    assert given(do(*(lasted(a, LONG) for a in held[3:]))) == []


def test_of_too_many_types_the_durations_are_learned_anew(do: Driver) -> None:
    with patch.object(lookahead, "_MAX_TYPES", 2):
        for type in ("a", "b", "task"):
            teach(do, type=type)
    more = submission(*(task(f"a{n}", type="a") for n in range(9)), run="other")
    assert given(do(connect(), more)) == ["a0"]


# --- to whom ---------------------------------------------------------------------------------


def test_all_free_slots_are_taken_before_anything_waits(do: Driver) -> None:
    teach(do)
    out = do(connect("ada", 3), connect("bob", 9), many(3))
    assert pairs(out) == [(MANY[0], "ada"), (MANY[1], "bob"), (MANY[2], "ada")]


def test_what_waits_at_equal_workers_is_shared_out(do: Driver) -> None:
    teach(do)
    out = do(connect("ada"), connect("bob"), many(8))
    assert len(given(out)) == len(given(out, "bob")) == 4


def test_urgent_and_hard_tasks_wait_in_front(do: Driver) -> None:
    teach(do)
    do(connect(skill=5), submission(task("now")))
    later = submission(task("easy"), task("hard", 5), task("urgent", priority=2), run="other")
    assert given(do(later)) == ["urgent", "hard", "easy"]


def test_a_worker_is_given_ahead_only_what_it_can_do(do: Driver) -> None:
    teach(do)
    do(connect("ada", 3), submission(task("now")))
    assert given(do(submission(task("hard", 4), task("easy", 3), run="other"))) == ["easy"]


def test_a_task_that_was_lost_with_its_worker_does_not_wait_and_none_waits_behind_it(
    do: Driver,
) -> None:
    teach(do)
    do(connect(), submission(task("killer")))
    do(connect("ada", incarnation="2"))  # started anew
    assert do.state.tasks.live["default", "killer"].losses == 1
    assert given(do(submission(*(task(id) for id in MANY), run="other"))) == []


def test_what_was_handed_back_may_wait_again(do: Driver) -> None:
    teach(do)
    held = one(do(connect("ada"), many(1)), c.Assign)
    do(connect("bob"), submission(task("other"), run="other"))
    assert given(do(disconnect(held.worker)), "bob") == MANY[:1]


def test_what_goes_first_is_not_overtaken_until_its_type_is_known(do: Driver) -> None:
    teach(do)
    do(connect("ada"), many(1))
    strange = [task(f"s{n}", type="strange", priority=9) for n in range(3)]
    out = do(connect("bob"), submission(*strange, task("known"), run="other"))
    first = one(out, c.Assign)
    assert (first.key[1], first.worker.name) == ("s0", "bob")
    ahead = pairs(do(lasted(first)))
    assert ahead[0] == ("s1", "bob")
    assert {id for id, _ in ahead[1:]} == {"s2", "known"}


def test_what_waits_for_a_free_slot_holds_up_others_no_longer_than_it_is_there(
    do: Driver,
) -> None:
    teach(do)
    do(connect(), many(2))
    do(submission(task("strange", type="strange", priority=9), run="other"))
    assert given(do(submission(task("known"), run="other"))) == []
    assert given(do(e.CancelRequested("r", "other", ("strange",), "no"))) == ["known"]


@pytest.mark.parametrize("how", ["draining", "suspect"])
def test_a_worker_that_leaves_or_is_silent_is_given_nothing_ahead(do: Driver, how: str) -> None:
    teach(do)
    held = one(do(connect(), many(1)), c.Assign)
    if how == "draining":
        do(heartbeat(held.worker, ref(held), draining=True))
    else:
        do(after=20.0)
    assert given(do(submission(task("next"), run="other"))) == []


def test_by_arrival_nothing_is_given_ahead() -> None:
    do = Driver(Arrival())
    teach(do)
    assert given(do(connect(), many())) == MANY[:1]


# --- the next manager ------------------------------------------------------------------------


def test_what_waits_at_a_worker_still_does_when_another_manager_leads() -> None:
    do = Driver()
    ada = profile()

    def row(id: str, status: TaskStatus, at: float, seq: int) -> LiveRow:
        facts: dict[str, Any] = {
            "worker": "ada",
            "incarnation": "1",
            "attempt": 1,
            "assigned_at": at,
        }
        return live_row(task(id, timeout=5.0), status, seq=seq, **facts)

    do.restore(
        row("c", TaskStatus.ASSIGNED, 903.0, 1),
        row("b", TaskStatus.ASSIGNED, 902.0, 2),
        row("a", TaskStatus.RUNNING, 904.0, 3),
        workers=[ada],
    )
    assert [id for _, id in do.state.workers.workers["ada"].attempts] == ["a", "b", "c"]
    held = [c.Assign(("default", id), "task", 1, ada, 0.0) for id in "abc"]
    out = []
    for _ in range(10):
        out += do(heartbeat(ada, *map(ref, held)), after=4.0)
    assert [(e.key[1], e.outcome) for e in pick(out, c.EndAttempt)] == [("a", Outcome.TIMED_OUT)]
