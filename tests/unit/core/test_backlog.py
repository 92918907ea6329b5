"""Ready tasks far behind are only in the store, and are loaded in their order."""

from typing import Any

import pytest

from skillq.messages import TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core import explain
from skillq_manager.core.model import Need
from skillq_manager.core.rules.matching import Arrival
from tests.support.backlog_driver import BacklogDriver
from tests.support.factories import (
    cancel,
    connect,
    disconnect,
    one,
    pairs,
    pick,
    results,
    submission,
    task,
)

KEEP = 2
READY = TaskStatus.READY


@pytest.fixture
def do() -> BacklogDriver:
    return BacklogDriver(KEEP)


def task_ids(count: int, first: int = 0) -> list[str]:
    return [f"t{n:02}" for n in range(first, first + count)]


def submit_tasks(
    do: BacklogDriver, count: int = 10, first: int = 0, **more: Any
) -> list[c.Command]:
    return do(submission(*(task(id, **more) for id in task_ids(count, first))))


def do_all_tasks(do: BacklogDriver) -> list[str]:
    """Let one worker do all tasks, one after the other, and return their ids."""
    order = []
    out = do(connect("ada"))
    while assigned := pick(out, c.Assign):
        order += [id for id, _ in pairs(out)]
        out = do(*(results(one) for one in assigned))
    return order


def test_only_the_first_tasks_of_a_need_are_in_memory(do: BacklogDriver) -> None:
    out = submit_tasks(do, 100)
    assert len(do.state.tasks.live) <= 2 * KEEP
    assert sum(command.backlog is not None for command in pick(out, c.AddTask)) == 95
    assert len(pick(out, c.MoveToBacklog)) == KEEP + 1
    assert not do.state.is_idle


def test_while_few_tasks_are_ready_none_goes_to_the_backlog() -> None:
    do = BacklogDriver(KEEP, backlog_from=10)
    submit_tasks(do, 5)
    out = submit_tasks(do, 5, 5, difficulty=4)
    assert not [command for command in out if isinstance(command, c.MoveToBacklog)]
    assert do.state.board.ready_count == 10
    out = submit_tasks(do, 10, 10)
    assert pick(out, c.MoveToBacklog)
    assert sum(command.backlog is not None for command in pick(out, c.AddTask)) == 9
    assert do_all_tasks(do) == task_ids(5, 5) + task_ids(5) + task_ids(10, 10)


def test_a_need_that_once_had_many_tasks_in_memory_gets_no_larger_share_later() -> None:
    keep, backlog_from, needs = 5, 100, 6
    do = BacklogDriver(keep, backlog_from=backlog_from)
    batches = [
        [task(f"{number}-{n}", type=f"kind {number}") for n in range(backlog_from + 2)]
        for number in range(needs)
    ]
    for batch in batches:
        for one_task in batch:
            do(submission(one_task))
        do(cancel())
        assert do.state.is_idle
    for n in range(backlog_from):
        for number in range(needs):
            do(submission(task(f"again-{number}-{n}", type=f"kind {number}")))
    assert do.state.board.ready_count <= backlog_from + 2 * keep * needs


def test_tasks_that_must_stay_in_memory_keep_no_other_tasks_in_memory(do: BacklogDriver) -> None:
    submit_tasks(do, KEEP + 1, deadline=1000.0)
    submit_tasks(do, 100, 10, priority=5)
    assert do.state.board.ready_count <= 3 * KEEP + 1
    assert len(do.state.tasks.live) <= 3 * KEEP + 1


def test_tasks_are_done_by_priority_and_then_in_the_order_of_submission(do: BacklogDriver) -> None:
    submit_tasks(do, 10)
    submit_tasks(do, 10, 10, priority=5)
    submit_tasks(do, 10, 20)
    assert do_all_tasks(do) == task_ids(10, 10) + task_ids(10) + task_ids(10, 20)
    assert do.state.is_idle


def test_single_urgent_tasks_cause_no_refill_and_keep_few_tasks_in_memory(
    do: BacklogDriver,
) -> None:
    submit_tasks(do, 50)
    for n in range(20):
        submit_tasks(do, 1, 50 + n, priority=5)
        assert len(do.state.tasks.live) <= 2 * KEEP + 1
    assert do.shell.refilled == 0
    assert do_all_tasks(do) == task_ids(20, 50) + task_ids(50)


def test_tasks_that_no_worker_can_do_stay_in_the_backlog(do: BacklogDriver) -> None:
    submit_tasks(do, 50, difficulty=9)
    do.restart_manager()
    do(connect("junior", 3))
    in_memory = len(do.state.tasks.live)
    assert in_memory == KEEP  # tasks that never were in the backlog
    (first,) = pairs(do(connect("senior", 9)))
    assert first == ("t00", "senior")
    assert do.shell.refilled == KEEP


def test_a_difficult_task_in_the_backlog_goes_before_an_easier_one_in_memory(
    do: BacklogDriver,
) -> None:
    submit_tasks(do, 6, difficulty=5)
    submit_tasks(do, 3, 6, difficulty=1)
    assert do_all_tasks(do) == task_ids(9)


def test_tasks_with_a_deadline_or_an_unroutable_policy_stay_in_memory(do: BacklogDriver) -> None:
    submit_tasks(do, 10)
    submit_tasks(do, 10, 10, deadline=50.0)
    submit_tasks(do, 10, 20, unroutable="reject", unroutable_after=60.0)
    kept = {key[1] for key in do.state.tasks.live}
    assert kept >= {*task_ids(20, 10)}


def test_a_task_with_an_earlier_attempt_stays_in_memory(do: BacklogDriver) -> None:
    submit_tasks(do, 2)
    held = one(do(connect("ada"), submission(task("u"))), c.Assign)
    do(disconnect(held.worker))
    submit_tasks(do, 10, 2, priority=5)
    assert held.key in do.state.tasks.live
    assert len(do.state.tasks.live) < 10


def test_a_task_queue_with_only_such_tasks_is_not_searched_for_every_new_task(
    do: BacklogDriver,
) -> None:
    submit_tasks(do, 50, deadline=50.0)
    (queue,) = (queue for queue in do.state.board._queues.values())
    assert queue.capacity >= 50
    assert not do.shell.evicted


def test_a_policy_with_another_order_keeps_no_backlog() -> None:
    do = BacklogDriver(KEEP, policy=Arrival())
    submit_tasks(do, 100)
    assert len(do.state.tasks.live) == 100
    assert not do.state.keeps_backlog


# --- submissions and operations on tasks of the backlog


def test_a_backlog_task_submitted_twice_in_one_round_is_added_once(do: BacklogDriver) -> None:
    tasks = submission(*(task(id) for id in task_ids(10)))
    answers = pick(do(tasks, tasks), c.AnswerSubmission)
    assert [(a.accepted, a.known) for a in answers] == [(10, 0), (0, 10)]
    assert one(do(tasks), c.AnswerSubmission).known == 10


def test_a_task_can_depend_on_a_task_in_the_backlog(do: BacklogDriver) -> None:
    tasks = [task(id) for id in task_ids(10)]
    early = task("early", depends_on=("t09",))
    do(submission(*tasks, early), submission(task("later", depends_on=("t08",))))
    assert do.status("early") is do.status("later") is TaskStatus.BLOCKED
    assert do_all_tasks(do) == [*task_ids(10), "early", "later"]


def test_cancelling_a_run_ends_its_tasks_in_the_backlog(do: BacklogDriver) -> None:
    submit_tasks(do, 10)
    do(submission(task("b", depends_on=("t09",))), submission(task("other"), run="other"), cancel())
    assert {do.status(id) for id in task_ids(10)} == {TaskStatus.CANCELLED}
    assert do.status("other", "other") is READY


def test_a_task_in_the_backlog_is_cancelled_by_its_id(do: BacklogDriver) -> None:
    submit_tasks(do, 10)
    out = do(cancel("t07", "t01"))
    assert {key[1] for key in one(out, c.AnswerRequest).done} == {"t01", "t07"}
    assert do_all_tasks(do) == [id for id in task_ids(10) if id not in {"t01", "t07"}]


def test_a_task_that_is_evicted_and_cancelled_in_one_round_is_cancelled(
    do: BacklogDriver,
) -> None:
    tasks = submission(*(task(id) for id in task_ids(10)))
    out = do(tasks, cancel("t09"), cancel())
    assert len(pick(out, c.SetStatus)) == 10
    assert do.state.is_idle
    assert one(out, c.CompleteRun).run == "default"


def test_a_backlog_task_that_is_cancelled_twice_in_one_round_ends_once(do: BacklogDriver) -> None:
    submit_tasks(do, 10)
    out = do(cancel("t09"), cancel("t09"), cancel())
    assert len(pick(out, c.SetStatus)) == 10


def test_a_task_in_the_backlog_has_not_ended_and_is_not_retried(do: BacklogDriver) -> None:
    tasks = [task(id) for id in task_ids(10)]
    do(submission(*tasks))
    assert one(do.retry(tasks[9]), c.AnswerRequest).refused == {("default", "t09"): "has not ended"}
    again = e.StoredTask(("default", "x"), 99, task("x"), 0, READY, 0)
    more = submission(*(task(id) for id in [*task_ids(3, 10), "x"]))
    out = do(more, e.RetryRequested("r", (again,), {}))
    assert one(out, c.AnswerRequest).refused == {("default", "x"): "has not ended"}


def test_a_backlog_task_that_ends_in_this_round_can_be_retried_only_later(
    do: BacklogDriver,
) -> None:
    tasks = [task(id) for id in task_ids(10)]
    do(submission(*tasks))
    old = e.StoredTask(("default", "t09"), 10, tasks[9], tasks[9].fingerprint(), READY, 0)
    out = do(cancel("t09"), e.RetryRequested("r2", (old,), {}))
    (refused,) = [reply.refused for reply in pick(out, c.AnswerRequest) if reply.refused]
    assert refused == {("default", "t09"): "has ended just now; ask again"}


def test_a_backlog_task_has_the_same_reason_and_verdicts_as_one_in_memory(
    do: BacklogDriver,
) -> None:
    submit_tasks(do, 10, difficulty=4)
    need = Need.from_task(task("x", difficulty=4))
    do(connect("junior", 3))
    assert do.reason("t09") is None
    assert explain.reason_in_backlog(do.state, need) == do.reason("t00")
    assert explain.verdicts_in_backlog(do.state, need) == explain.verdicts(
        do.state, ("default", "t00")
    )
    assert explain.reason_in_backlog(do.state, Need.from_task(task("x", difficulty=9))) is None
    assert explain.verdicts_in_backlog(do.state, Need.from_task(task("x", difficulty=9))) == []


# --- workers


def test_a_reserved_worker_takes_aged_tasks_of_the_backlog(do: BacklogDriver) -> None:
    submit_tasks(do, 10)
    do.restart_manager()
    do(connect("senior", 9, reserve=5))
    done: list[str] = []
    for _ in range(200):
        out = do(after=2.0)
        while assigned := pick(out, c.Assign):
            done += [id for id, _ in pairs(out)]
            out = do(*(results(one) for one in assigned))
        do(connect("senior", 9, reserve=5))
    assert done == task_ids(10)


def test_a_backlog_that_no_reserved_worker_can_do_is_not_loaded_for_ageing(
    do: BacklogDriver,
) -> None:
    submit_tasks(do, 10, difficulty=9)
    do.restart_manager()
    loaded = set(do.state.tasks.live)
    for _ in range(50):
        do(connect("bob", 4, reserve=2))
        assert not pick(do(after=2.0), c.Assign)
    assert set(do.state.tasks.live) == loaded


def test_a_task_queue_with_a_backlog_is_kept_when_empty_task_queues_are_removed(
    do: BacklogDriver,
) -> None:
    do.state.board._cleanup_at = 3
    submit_tasks(do, 6)
    held = pick(do(connect("bob", slots=2)), c.Assign)
    for n in range(10):
        do(submission(task(f"x{n}", type=f"type{n}")), cancel(f"x{n}"))
    order = [id for id, _ in pairs(held)]
    out = do(*(results(one) for one in held))
    while assigned := pick(out, c.Assign):
        order += [id for id, _ in pairs(out)]
        out = do(*(results(one) for one in assigned))
    assert order == task_ids(6)


# --- the next manager


def test_the_next_manager_counts_the_backlog_and_continues_in_order(do: BacklogDriver) -> None:
    submit_tasks(do, 10)
    do(submission(task("after", depends_on=("t09",)), task("also", depends_on=("t00",))))
    held = one(do(connect("ada")), c.Assign)
    do(results(held))
    do.restart_manager()
    assert do.state.tasks.open == {"default": 11}
    assert do.status("after") is TaskStatus.BLOCKED
    assert len(do.state.tasks.live) <= 2 * KEEP + 2
    out = do(connect("ada"))
    assert pairs(out)[0][0] in {"t01", "t02"}


def test_a_manager_without_a_backlog_loads_the_backlog_of_the_previous_manager(
    do: BacklogDriver,
) -> None:
    submit_tasks(do, 10)
    do.restart_manager(keep=0)
    assert len(do.state.tasks.live) == 10
    assert do.state.tasks.open == {"default": 10}
    do.restart_manager()
    assert do_all_tasks(do) == task_ids(10)


def test_after_a_page_of_tasks_that_are_in_memory_the_next_page_is_requested(
    do: BacklogDriver,
) -> None:
    submit_tasks(do, 10)
    do.restart_manager()
    need = Need.from_task(task("x"))
    do.state.board.refill(need, (), (-1, 8))
    assert [queue.is_exhausted for queue, _ in do.state.board.backlog_queues()] == [
        False
    ]  # the first tasks were never in the backlog
    do.state.board.refill(need, (), (-1, 1))
    assert [queue.is_exhausted for queue, _ in do.state.board.backlog_queues()] == [True]
