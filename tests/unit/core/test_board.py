"""The board finds each match, and its heaps do not grow for ever."""

from unittest.mock import patch

import pytest

from skillq_manager.core.dispatch import board as board_module
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import Lookahead, LookaheadPolicy
from skillq_manager.core.dispatch.queues import TaskQueue, WorkerPool
from skillq_manager.core.model import WorkerEntry
from skillq_manager.core.rules.matching import Arrival, BestFit, Policy
from tests.support.factories import need, task_entry, worker_entry


@pytest.mark.parametrize("policy", [BestFit(), Arrival()])
def test_the_worker_queue_does_not_grow_with_each_task_of_a_worker(policy: Policy) -> None:
    # Its rank among free workers changes with every task; old entries of the heap must go.
    board, worker = new_board(policy), worker_entry(1, slots=1000)
    board.add_worker(worker)
    for seq in range(900):
        board.add_task(task_entry(seq))
        assert assign_next(board) is worker
        if seq > 10:
            worker.attempts.popitem()
            board.worker_changed(worker)
    assert len(board._pools[policy.relevant_skills(worker.skills)].worker_queues[0].heap) < 100


def test_a_worker_pool_does_not_grow_with_tasks_that_other_workers_take() -> None:
    # The expert always has urgent tasks, while the junior takes easy ones.
    board, expert, junior = new_board(BestFit()), worker_entry(1, 9), worker_entry(2, 1, slots=5000)
    for seq in range(9):
        board.add_task(task_entry(seq, need(type=f"t{seq}", difficulty=10)))
    for worker in (expert, junior):
        board.add_worker(worker)
    for seq in range(10, 1000, 2):
        board.add_task(task_entry(seq, need(difficulty=9), priority=2))
        board.add_task(task_entry(seq + 1))
        assert [assign_next(board), assign_next(board), assign_next(board)] == [
            expert,
            junior,
            None,
        ]
        expert.attempts.clear()
        board.worker_changed(expert)
    pool = board._pools[expert.skills]
    assert 1 < len(pool.queue_heap) < 100


def test_empty_task_queues_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "_QUEUES_BEFORE_CLEANUP", 8)
    board, worker = new_board(BestFit()), worker_entry(1, 9, slots=1000)
    board.add_worker(worker)
    for seq in range(200):
        board.add_task(task_entry(seq, need(type=f"t{seq}")))
        assign_next(board)
    assert len(board._queues) <= 17


def test_task_queues_with_tasks_are_not_searched_for_each_new_need() -> None:
    remove_empty_queues = Board._remove_empty_queues
    with (
        patch.object(board_module, "_QUEUES_BEFORE_CLEANUP", 8),
        patch.object(
            Board, remove_empty_queues.__name__, autospec=True, side_effect=remove_empty_queues
        ) as calls,
    ):
        board = new_board(BestFit())
        for seq in range(1000):
            board.add_task(task_entry(seq, need(type=f"t{seq}")))
        assert calls.call_count < 10


def test_a_worker_pool_without_workers_is_removed() -> None:
    board, worker = new_board(BestFit()), worker_entry(1)
    board.add_task(task_entry(1, need(difficulty=9)))
    board.add_task(task_entry(2))
    board.add_worker(worker)
    board.remove_worker(worker, 0.0)
    assert not board._pools
    assert not any(queue.pools for queue in board._queues.values())
    assert board.next_match() is None


def new_board(policy: Policy) -> Board:
    return Board(policy, Lookahead(LookaheadPolicy()))


def assign_next(board: Board) -> WorkerEntry | None:
    match = board.next_match()
    if match is None:
        return None
    task, worker = match
    worker.attempts[task.key] = task
    board.worker_changed(worker)
    return worker


def test_an_excluded_worker_is_skipped_among_equal_workers() -> None:
    board, ada, bob = (
        new_board(BestFit()),
        worker_entry(1, title="ada"),
        worker_entry(2, title="bob"),
    )
    for worker in (ada, bob):
        board.add_worker(worker)
    board.add_task(task_entry(1, need(excluded=["ada"])))
    board.add_task(task_entry(2))
    assert [assign_next(board), assign_next(board), assign_next(board)] == [bob, ada, None]


def test_the_free_worker_is_found_among_many_worker_pools() -> None:
    board = new_board(BestFit())
    workers = [worker_entry(n, 5, specialties=[f"s{n}"]) for n in range(20)]
    for worker in workers:
        board.add_worker(worker)
    for seq in range(20):
        board.add_task(task_entry(seq))
        assign_next(board)
    workers[7].attempts.clear()
    board.worker_changed(workers[7])
    board.add_task(task_entry(20, need(difficulty=6)))
    board.add_task(task_entry(21))
    assert [assign_next(board), assign_next(board)] == [workers[7], None]


def test_workers_that_no_task_excludes_any_more_share_one_pool_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(board_module, "_QUEUES_BEFORE_CLEANUP", 8)
    board, workers = new_board(BestFit()), [worker_entry(n, slots=100) for n in range(1, 6)]
    for worker in workers:
        board.add_worker(worker)
    for seq in range(50):
        board.add_task(task_entry(seq, need(type=f"t{seq}", excluded=[f"w{1 + seq % 5}"])))
        assert assign_next(board) is not None
    board._remove_empty_queues()
    assert not board._exclusion_counts
    for worker in workers:
        board.remove_worker(worker, 0.0)
        board.add_worker(worker)
    assert len(board._pools) == 1


def test_urgent_tasks_age_first_if_not_all_can_age_at_once() -> None:
    board = new_board(BestFit())
    board.add_worker(worker_entry(1, 9, reserve=5))
    for seq in range(10):
        board.add_task(task_entry(seq, need(difficulty=2), priority=seq, ready_at=float(seq)))
    assert [task.seq for task in board.tasks_to_age(7.0, 3)] == [7, 6, 5]


def test_no_more_tasks_age_while_aged_tasks_still_wait() -> None:
    # Otherwise a whole backlog would age, and all its tasks would be loaded for that.
    board = new_board(BestFit())
    board.add_worker(worker_entry(1, 9, reserve=5))
    old = [task_entry(seq, need(difficulty=2), ready_at=0.0) for seq in range(10)]
    for task in old:
        board.add_task(task)
    (first,) = board.tasks_to_age(7.0, 1)
    board.discard_task(first)
    first.need = first.need._replace(aged=True)
    board.add_task(first)
    assert board.tasks_to_age(7.0, 9) == []
    board.discard_task(first)
    assert len(board.tasks_to_age(7.0, 9)) == 9


def test_an_empty_task_queue_is_removed_when_it_is_first_in_the_pool() -> None:
    # The pool removes the task queue when it is first in the heap.
    pool, queue, task = (
        WorkerPool(worker_entry(1).skills, 1),
        TaskQueue(need(), 2, 0.0),
        task_entry(1),
    )
    task.ticket = 7
    queue.push(((1,), 7, task))
    pool.add_queue(queue, (1,))
    assert pool.best_queue() == ((1,), queue)
    later = task_entry(2)
    later.ticket = 8
    queue.push(((2,), 8, later))
    task.ticket = 0
    queue.on_task_removed()
    assert pool.best_queue() == ((2,), queue)
    later.ticket = 0
    queue.on_task_removed()
    assert pool.best_queue() is None
    assert not pool.queue_ranks
