"""Workers prefetch short tasks: how many, which ones, and after another manager leads."""

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
from tests.support.lookahead_builders import (
    LONG,
    SHORT_TASKS_PER_SLOT,
    TASK_IDS,
    ids_assigned_to,
    make_duration_known,
    many_tasks,
    result_after,
)

# --- how many tasks ----------------------------------------------------------------------------


def test_tasks_of_a_type_with_unknown_duration_are_not_prefetched(do: Driver) -> None:
    out = do(connect(slots=3), many_tasks())
    assert ids_assigned_to(out) == TASK_IDS[:3]


def test_after_the_first_result_a_worker_gets_a_tenth_of_a_second_of_work(do: Driver) -> None:
    first = pick(do(connect(), many_tasks()), c.Assign)[0]
    assert ids_assigned_to(do(result_after(first))) == TASK_IDS[1 : 1 + SHORT_TASKS_PER_SLOT]


def test_with_every_result_a_worker_gets_one_more_task(do: Driver) -> None:
    make_duration_known(do)
    held = pick(do(connect(), many_tasks()), c.Assign)
    assert len(held) == SHORT_TASKS_PER_SLOT
    assert (
        ids_assigned_to(do(result_after(held[0]), result_after(held[1])))
        == TASK_IDS[SHORT_TASKS_PER_SLOT : SHORT_TASKS_PER_SLOT + 2]
    )


def test_a_worker_with_more_slots_gets_more_prefetched_tasks(do: Driver) -> None:
    make_duration_known(do)
    assert len(ids_assigned_to(do(connect(slots=4), many_tasks()))) == 52


def test_long_tasks_are_not_prefetched(do: Driver) -> None:
    make_duration_known(do, LONG)
    assert ids_assigned_to(do(connect(slots=2), many_tasks())) == TASK_IDS[:2]


def test_a_long_task_takes_a_slot_and_short_ones_wait_for_the_others(do: Driver) -> None:
    make_duration_known(do, LONG, "film")
    make_duration_known(do)
    film = submission(task("film", type="film", priority=9), run="other")
    assert (
        len(ids_assigned_to(do(connect(slots=2), film, many_tasks()))) == 1 + SHORT_TASKS_PER_SLOT
    )


def test_no_task_is_prefetched_behind_a_waiting_long_task(do: Driver) -> None:
    make_duration_known(do, LONG, "film")
    make_duration_known(do)
    do(connect(), many_tasks(3, priority=9))
    film = submission(task("film", type="film", priority=5), run="other")
    assert ids_assigned_to(do(film)) == ["film"]
    assert not ids_assigned_to(do(submission(task("next"), run="other")))


def test_a_worker_prefetches_at_most_as_many_tasks_as_the_policy_allows() -> None:
    do = Driver(lookahead=LookaheadPolicy(max_prefetched=5))
    make_duration_known(do, 0.0)
    assert ids_assigned_to(do(connect(slots=2), many_tasks())) == TASK_IDS[:7]


def test_the_estimate_of_a_task_has_a_lower_limit() -> None:
    do = Driver(lookahead=LookaheadPolicy(max_seconds=0.00995))
    make_duration_known(do, 0.0)
    assert len(ids_assigned_to(do(connect(), many_tasks()))) == 100


@pytest.mark.parametrize(("started_at", "finished_at"), [(None, 7.0), (7.0, None), (7.0, 6.0)])
def test_impossible_durations_are_ignored(
    do: Driver, started_at: float | None, finished_at: float | None
) -> None:
    first = pick(do(connect(), many_tasks()), c.Assign)[0]
    results = report(first.worker, result(first, started_at=started_at, finished_at=finished_at))
    assert ids_assigned_to(do(results)) == TASK_IDS[1:2]


def test_the_duration_of_a_type_is_updated_with_every_result(do: Driver) -> None:
    make_duration_known(do)
    held = pick(do(connect(), many_tasks()), c.Assign)
    assert (
        ids_assigned_to(do(*(result_after(a, LONG) for a in held[:3])))
        == TASK_IDS[SHORT_TASKS_PER_SLOT : SHORT_TASKS_PER_SLOT + 1]
    )
    assert ids_assigned_to(do(*(result_after(a, LONG) for a in held[3:]))) == []


def test_beyond_the_limit_of_types_durations_are_forgotten(do: Driver) -> None:
    with patch.object(lookahead, "_MAX_TYPES", 2):
        for type in ("a", "b", "task"):
            make_duration_known(do, type=type)
    more = submission(*(task(f"a{n}", type="a") for n in range(9)), run="other")
    assert ids_assigned_to(do(connect(), more)) == ["a0"]


# --- which tasks and workers --------------------------------------------------------------


def test_all_free_slots_are_used_before_any_task_is_prefetched(do: Driver) -> None:
    make_duration_known(do)
    out = do(connect("ada", 3), connect("bob", 9), many_tasks(3))
    assert pairs(out) == [(TASK_IDS[0], "ada"), (TASK_IDS[1], "bob"), (TASK_IDS[2], "ada")]


def test_prefetched_tasks_are_shared_equally_between_equal_workers(do: Driver) -> None:
    make_duration_known(do)
    out = do(connect("ada"), connect("bob"), many_tasks(8))
    assert len(ids_assigned_to(out)) == len(ids_assigned_to(out, "bob")) == 4


def test_urgent_and_difficult_tasks_are_prefetched_first(do: Driver) -> None:
    make_duration_known(do)
    do(connect(skill=5), submission(task("now")))
    others = submission(task("easy"), task("hard", 5), task("urgent", priority=2), run="other")
    assert ids_assigned_to(do(others)) == ["urgent", "hard", "easy"]


def test_a_worker_prefetches_only_tasks_that_it_can_do(do: Driver) -> None:
    make_duration_known(do)
    do(connect("ada", 3), submission(task("now")))
    assert ids_assigned_to(do(submission(task("hard", 4), task("easy", 3), run="other"))) == [
        "easy"
    ]


def test_a_task_with_a_lost_attempt_is_not_prefetched_and_has_none_behind_it(
    do: Driver,
) -> None:
    make_duration_known(do)
    do(connect(), submission(task("killer")))
    do(connect("ada", incarnation="2"))  # restarted
    assert do.state.tasks.live["default", "killer"].losses == 1
    assert ids_assigned_to(do(submission(*(task(id) for id in TASK_IDS), run="other"))) == []


def test_a_returned_task_can_be_prefetched_again(do: Driver) -> None:
    make_duration_known(do)
    held = one(do(connect("ada"), many_tasks(1)), c.Assign)
    do(connect("bob"), submission(task("other"), run="other"))
    assert ids_assigned_to(do(disconnect(held.worker)), "bob") == TASK_IDS[:1]


def test_a_first_task_of_unknown_duration_is_not_overtaken(do: Driver) -> None:
    make_duration_known(do)
    do(connect("ada"), many_tasks(1))
    unknown = [task(f"s{n}", type="strange", priority=9) for n in range(3)]
    out = do(connect("bob"), submission(*unknown, task("known"), run="other"))
    first = one(out, c.Assign)
    assert (first.key[1], first.worker.name) == ("s0", "bob")
    ahead = pairs(do(result_after(first)))
    assert ahead[0] == ("s1", "bob")
    assert {id for id, _ in ahead[1:]} == {"s2", "known"}


def test_a_task_that_waits_for_a_free_slot_holds_up_others_until_it_is_cancelled(
    do: Driver,
) -> None:
    make_duration_known(do)
    do(connect(), many_tasks(2))
    do(submission(task("strange", type="strange", priority=9), run="other"))
    assert ids_assigned_to(do(submission(task("known"), run="other"))) == []
    assert ids_assigned_to(do(e.CancelRequested("r", "other", ("strange",), "no"))) == ["known"]


@pytest.mark.parametrize("status", ["draining", "suspect"])
def test_a_draining_or_suspect_worker_gets_no_prefetched_tasks(do: Driver, status: str) -> None:
    make_duration_known(do)
    held = one(do(connect(), many_tasks(1)), c.Assign)
    if status == "draining":
        do(heartbeat(held.worker, ref(held), draining=True))
    else:
        do(after=20.0)
    assert ids_assigned_to(do(submission(task("next"), run="other"))) == []


def test_by_arrival_no_task_is_prefetched() -> None:
    do = Driver(Arrival())
    make_duration_known(do)
    assert ids_assigned_to(do(connect(), many_tasks())) == TASK_IDS[:1]


# --- the next manager ------------------------------------------------------------------------


def test_prefetched_attempts_stay_prefetched_when_another_manager_leads() -> None:
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
    assert [(end.key[1], end.outcome) for end in pick(out, c.EndAttempt)] == [
        ("a", Outcome.TIMED_OUT)
    ]
