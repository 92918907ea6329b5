"""The need of a task changes after failures, while no worker can do it, and when it ages."""

from typing import Any

import pytest

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.model import Need
from skillq_manager.core.rules.matching import Arrival
from tests.support.factories import (
    Driver,
    connect,
    disconnect,
    heartbeat,
    live_row,
    need,
    one,
    pairs,
    pick,
    profile,
    results,
    submission,
    task,
)

S = TaskStatus
ADA, BOB = profile("ada"), profile("bob")


@pytest.fixture
def do() -> Driver:
    return Driver(chance=0.0)  # no jitter: retries are immediate


def changed_needs(out: list[c.Command]) -> list[tuple[str, Need, str]]:
    return [(x.key[1], x.need, x.reason) for x in pick(out, c.SetNeed)]


def heartbeats(*workers: Any) -> list[Any]:
    return [heartbeat(one) for one in workers]


# --- escalation and exclusion


def test_each_retry_needs_more_skill_and_another_worker(do: Driver) -> None:
    team = (connect("ada", 3), connect("bob", 6), connect("cyd", 9))
    out = do(*team, submission(task(difficulty=2, escalate_by=3, max_attempts=4)))
    for name, harder in (("ada", 5), ("bob", 8), ("cyd", 9)):
        held = one(out, c.Assign)
        assert held.worker.name == name
        out = do(results(held, Outcome.FAILED))
        assert one(out, c.SetNeed).need.difficulty == harder
        assert one(out, c.SetNeed).reason == f"attempt {held.attempt} failed with {name}"
    assert pairs(out) == [("a", "cyd")], (
        "no worker has skill 10: the task goes to the most skilled one"
    )


def test_a_retry_needs_at_most_the_skill_of_the_best_capable_worker(do: Driver) -> None:
    do(connect("ada", 4, specialties=["lab"]), connect("bob", 6, specialties=["lab"]))
    do(connect("cyd", 10), connect("dan", 10, types=["ocr"], specialties=["lab"]))
    hard = task(difficulty=3, escalate_by=5, max_attempts=4, requires=("lab",))
    out = do(submission(hard))
    for name, harder in (("ada", 6), ("bob", 6)):
        held = one(out, c.Assign)
        assert held.worker.name == name
        out = do(results(held, Outcome.FAILED))
        assert one(out, c.SetNeed).need.difficulty == harder
    assert pairs(out) == [("a", "bob")]


def test_a_task_does_not_go_back_to_a_worker_that_failed_it_if_there_is_another(
    do: Driver,
) -> None:
    do(connect("ada"), connect("bob", 9, slots=2))
    tried = one(do(submission(task(max_attempts=9))), c.Assign)
    out = do(results(tried, Outcome.FAILED))
    assert changed_needs(out) == [("a", need(excluded=["ada"]), "attempt 1 failed with ada")]
    assert pairs(out) == [("a", "bob")]
    assert pairs(do(submission(task("b")))) == [("b", "ada")]  # other tasks may go to ada
    out = do(results(one(out, c.Assign), Outcome.TIMED_OUT))
    assert changed_needs(out) == [
        ("a", need(), "attempt 2 failed with bob")
    ]  # both failed it, so both may try again
    assert pairs(out) == [("a", "bob")]


def test_a_worker_is_excluded_by_name_with_any_incarnation(do: Driver) -> None:
    do(connect("ada"), connect("bob", 9))
    held = one(do(submission(task(max_attempts=9))), c.Assign)
    do(results(held, Outcome.FAILED), submission(task("b", 9)))
    out = do(connect("ada", incarnation="2"), disconnect(BOB))
    assert not pairs(out)
    assert not pairs(do(*heartbeats(profile("ada", incarnation="2")), after=14.0))
    assert pairs(do(connect("cyd"))) == [("a", "cyd")]


def test_an_excluded_worker_may_try_again_if_no_other_worker_can_do_the_task(do: Driver) -> None:
    do(connect("ada"), connect("bob", 9))
    held = one(do(submission(task(max_attempts=9))), c.Assign)
    do(results(held, Outcome.FAILED), disconnect(BOB))
    assert not pairs(do(*heartbeats(ADA), after=14.0))  # bob may be restarting
    out = do(after=1.0)
    assert changed_needs(out) == [("a", need(), "no other worker can do it")]
    assert pairs(out) == [("a", "ada")]


def test_while_no_worker_is_connected_the_exclusion_stays(do: Driver) -> None:
    do(connect("ada"), connect("bob", 9))
    held = one(do(submission(task(max_attempts=9))), c.Assign)
    do(results(held, Outcome.FAILED), disconnect(BOB), disconnect(ADA))
    assert not changed_needs(do(after=99.0))
    assert pairs(do(connect("ada", incarnation="2"), connect("bob", 9, incarnation="2"))) == [
        ("a", "bob")
    ]


def test_the_only_worker_gets_the_retry(do: Driver) -> None:
    held = one(do(connect(), submission(task(max_attempts=2))), c.Assign)
    out = do(results(held, Outcome.FAILED))
    assert not changed_needs(out)
    assert pairs(out) == [("a", "ada")]


def test_a_lost_or_returned_attempt_does_not_change_the_need(do: Driver) -> None:
    do(connect("ada"), connect("bob", 9))
    held = one(do(submission(task(escalate_by=3, max_attempts=5))), c.Assign)
    out = do(results(held, Outcome.RETURNED))
    assert not changed_needs(out)
    out = do(connect("bob", 9, incarnation="2"))
    assert not changed_needs(out)
    assert one(out, c.EndAttempt).outcome is Outcome.LOST


# --- unroutable tasks


def unroutable(policy: str, **more: Any) -> Any:
    return submission(task(unroutable=policy, unroutable_after=10, **more))


def test_by_default_an_unroutable_task_waits(do: Driver) -> None:
    do(connect(), submission(task(difficulty=9)))
    assert not pick(do(*heartbeats(ADA), after=300.0), c.SetStatus)
    assert pairs(do(connect("bob", 9))) == [("a", "bob")]


def test_unroutable_reject_dead_letters_the_task(do: Driver) -> None:
    do(connect(), unroutable("reject", difficulty=9))
    assert not pick(do(*heartbeats(ADA), after=9.5), c.SetStatus)
    end = one(do(after=0.5), c.SetStatus)
    assert (end.status, end.reason) == (
        S.DEAD_LETTERED,
        "no worker can do it: it needs skill 9, the best has 5",
    )


def test_an_unroutable_task_is_dead_lettered_when_no_worker_is_connected(do: Driver) -> None:
    do(unroutable("reject"))
    end = one(do(paused=10.0), c.SetStatus)
    assert (end.status, end.reason) == (S.DEAD_LETTERED, "no worker is connected")


def test_no_task_is_unroutable_while_workers_are_still_expected() -> None:
    do = Driver(expected_workers=2)
    do(connect(), unroutable("reject", difficulty=9))
    for _ in range(9):
        assert not pick(do(*heartbeats(ADA), after=9.0), c.SetStatus)
    assert pairs(do(connect("bob", 9))) == [("a", "bob")]


def test_unroutable_relax_lowers_the_need_step_by_step(do: Driver) -> None:
    do(connect(skill=5), unroutable("relax", difficulty=7, requires=("lab",)))
    out = do(*heartbeats(ADA), after=10.0)
    reason = "relaxed: no worker has the specialties it requires: lab"
    assert changed_needs(out) == [("a", need(difficulty=7), reason)]
    assert [n.difficulty for _, n, _ in changed_needs(do(*heartbeats(ADA), after=10.0))] == [6]
    out = do(*heartbeats(ADA), after=10.0)
    assert [n.difficulty for _, n, _ in changed_needs(out)] == [5]
    assert pairs(out) == [("a", "ada")]


def test_unroutable_escalate_lets_the_most_skilled_worker_try(do: Driver) -> None:
    do(connect("ada", 4), connect("bob", 6))
    do(unroutable("escalate", difficulty=9, requires=("lab",)))
    out = do(*heartbeats(profile("ada", 4), profile("bob", 6)), after=10.0)
    reason = "escalated: no worker has the specialties it requires: lab"
    assert changed_needs(out) == [("a", need(difficulty=6, aged=True), reason)]
    assert pairs(out) == [("a", "bob")]


def test_escalation_uses_real_skills_even_if_the_policy_ignores_skill() -> None:
    do = Driver(Arrival(), chance=0.0)
    two = (connect("ada", 4, types=["ocr"]), connect("bob", 6, types=["ocr"]))
    do(*two, unroutable("escalate", difficulty=9, type="gpu"))
    workers = (profile("ada", 4, types=["ocr"]), profile("bob", 6, types=["ocr"]))
    assert not changed_needs(do(*heartbeats(*workers), after=11.0))
    row = live_row(
        task("x", 9, unroutable="escalate", unroutable_after=10),
        need=need(difficulty=9, excluded=["ada"]),
    )
    do = Driver(Arrival())
    do.restore(row, workers=[profile("ada", 4)])
    assert [
        n.difficulty for _, n, _ in changed_needs(do(*heartbeats(profile("ada", 4)), after=10.0))
    ] == [4]


@pytest.mark.parametrize("policy", ["relax", "escalate"])
def test_a_need_is_not_relaxed_or_escalated_if_no_worker_handles_the_type(
    do: Driver, policy: str
) -> None:
    do(unroutable(policy, difficulty=9))
    assert not changed_needs(do(after=99.0))
    do(connect(skill=9, types=["ocr"]))
    assert not changed_needs(do(*heartbeats(profile(skill=9, types=["ocr"])), after=99.0))
    assert pairs(do(connect("bob", 9))) == [("a", "bob")]


def test_the_unroutable_time_counts_from_the_leaving_of_the_last_capable_worker(do: Driver) -> None:
    busy = submission(task("busy", 9))
    do(connect("ada"), connect("bob", 9), busy, unroutable("reject", difficulty=9))
    do(*heartbeats(ADA, profile("bob", 9)), after=25.0)
    out = do(disconnect(BOB), after=1.0)
    assert one(out, c.EndAttempt).key[1] == "busy"
    assert not pick(do(*heartbeats(ADA), after=9.5), c.SetStatus)
    assert one(do(after=0.5), c.SetStatus).status is S.DEAD_LETTERED


def test_a_capable_worker_that_returns_in_time_keeps_the_task_routable(do: Driver) -> None:
    do(connect("bob", 9), submission(task("busy", 9)), unroutable("reject", difficulty=9))
    do(disconnect(BOB), after=5.0)
    do(connect("bob", 9, incarnation="2"), after=8.0)
    do(disconnect(profile("bob", incarnation="2")), after=8.0)
    assert not pick(do(after=9.0), c.SetStatus)


def test_a_tiny_unroutable_after_does_not_cause_endless_rounds(do: Driver) -> None:
    at_once = task(difficulty=9, type="ocr", unroutable="relax", unroutable_after=1e-12)
    do(connect(types=["gpu"]), submission(at_once, at_once.model_copy(update={"id": "b"})))
    do.now = 1e9
    do()
    due = do.state.next_deadline()
    assert due is not None
    assert due >= do.now + 1.0


def test_unroutable_reject_dead_letters_a_task_that_only_a_reserved_worker_could_do(
    do: Driver,
) -> None:
    do(connect("bob", 9, reserve=5), unroutable("reject", difficulty=2))
    bob = profile("bob", 9, reserve=5)
    for _ in range(2):
        do(heartbeat(bob), after=4.0)
    out = do(heartbeat(bob), after=2.0)
    assert one(out, c.SetStatus).status is S.DEAD_LETTERED


def test_an_aged_task_that_no_worker_can_do_any_more_is_dead_lettered(do: Driver) -> None:
    first = live_row(task("a", 2), need=need(difficulty=2, aged=True))
    bob = profile("bob", 9, reserve=5, slots=1)
    late = task("b", 2, unroutable="reject", unroutable_after=100)
    do.restore(first, workers=[bob])
    do(submission(late))
    for _ in range(8):
        do(heartbeat(bob), after=10.0)
    assert do.state.tasks.live["default", "b"].need.aged
    do(disconnect(bob))
    do(after=99.5)
    assert do.status("b") is S.READY
    do(after=1.5)
    assert do.status("b") is S.DEAD_LETTERED


# --- reservation


def test_a_reserved_worker_takes_an_easy_task_only_after_it_has_aged(do: Driver) -> None:
    expert = profile("bob", 9, reserve=5)
    do(heartbeat(expert), submission(task("easy", 2), task("hard", 8)))
    assert do.status("easy") is S.READY
    assert do.status("hard") is S.ASSIGNED
    held = c.Assign(("default", "hard"), "task", 1, expert, 0.0)
    assert not pairs(do(results(held), after=1.0))
    for _ in range(6):
        do(heartbeat(expert), after=9.0)
    assert not pairs(do(heartbeat(expert), after=4.0))
    assert pairs(do(after=1.0)) == [("easy", "bob")]


def test_an_old_task_ages_behind_new_urgent_tasks(do: Driver) -> None:
    # The first task of the task queue is always new.
    expert = profile("bob", 9, reserve=5)
    do(heartbeat(expert), submission(task("old", 2)))
    assigned: list[tuple[str, str]] = []
    for n in range(7):
        assigned += pairs(
            do(heartbeat(expert), submission(task(f"new{n}", 2, priority=9)), after=10.0)
        )
    assert assigned == [("old", "bob")]


def test_a_task_that_unreserved_workers_can_do_does_not_age(do: Driver) -> None:
    do(connect("ada", 5), connect("bob", 9), submission(task("busy", 2), task("busy2", 9)))
    do(submission(task("wait", 2)))
    for _ in range(8):
        do(*heartbeats(profile("ada", 5), profile("bob", 9)), after=10.0)
    assert not do.state.tasks.live["default", "wait"].need.aged
