"""Recalls of prefetched attempts, so that no worker idles while another is overcommitted.

A recalled attempt is returned by its worker and assigned again. See docs/adr/0015-prefetch-by-time-and-recall.md.
"""

from collections.abc import Iterator
from itertools import islice

from skillq import timings
from skillq.messages import TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import LookaheadPolicy, prefetched_attempts
from skillq_manager.core.dispatch.queues import WorkerPool
from skillq_manager.core.model import Need, TaskEntry, WorkerEntry
from skillq_manager.core.round import RoundState

_ATTEMPTS_PER_CHECK = 10_000  # so that a check does not delay a round


class Recalls:
    """Recalls prefetched attempts while one worker idles and another is overcommitted."""

    def __init__(self, round_state: RoundState, board: Board, policy: LookaheadPolicy) -> None:
        self._round = round_state
        self._board = board
        self._policy = policy
        self._next_check_at = 0.0

    def next_check_at(self) -> float | None:
        """Return when the next check is due without an event, or None if no recall could help."""
        return self._next_check_at if self._board.has_uneven_load else None

    def recall_overdue(self) -> None:
        """Recall attempts that have waited for too long, at most as many as there are idle slots."""
        if not self._board.has_uneven_load or self._round.now < self._next_check_at:
            return
        self._next_check_at = self._round.now + self._policy.recall_after / 2
        if not self._round.has_listened_for(self._policy.recall_after):
            return  # attempts that seem to wait may have ended long ago
        idle = _IdleSlots(self._board)
        budget = _ATTEMPTS_PER_CHECK
        for worker in self._board.next_overcommitted():
            budget -= len(worker.attempts)
            self._recall_from(worker, idle)
            if not idle.total or budget < 0:
                return

    def _recall_from(self, worker: WorkerEntry, idle: "_IdleSlots") -> None:
        """Recall from one worker, newest attempts first: the oldest may start at any moment."""
        oldest = next(prefetched_attempts(worker))
        if self._round.now - oldest.assigned_at < self._policy.recall_after:
            return
        newest = islice(reversed(worker.attempts.values()), len(worker.attempts) - worker.slots)
        recalled = tuple(self._to_recall(newest, idle))
        if not recalled:
            return
        for task in recalled:
            task.recalled_at = self._round.now
        worker.recall_pending = True
        self._board.worker_changed(worker)
        refs = tuple(task.ref for task in recalled)
        self._round.commands.append(c.RecallAttempts(worker.profile, self._round.store, refs))

    def _to_recall(self, newest: Iterator[TaskEntry], idle: "_IdleSlots") -> Iterator[TaskEntry]:
        for task in newest:
            if not idle.total:
                return
            if task.status is not TaskStatus.ASSIGNED or not idle.take_slot(task.need):
                continue
            recalled_at = task.recalled_at
            if recalled_at is None or self._round.now - recalled_at >= timings.RECALL_RETRY_SECONDS:
                yield task


class _IdleSlots:
    """The free slots for which the board has no task."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._slots_by_pool = board.idle_slots()
        self._capable_pools: dict[Need, list[WorkerPool]] = {}
        self.total = sum(self._slots_by_pool.values())

    def take_slot(self, need: Need) -> bool:
        """Reserve a slot for a task with this need; return False if no such slot is left."""
        capable = self._capable_pools.get(need)
        if capable is None:
            can = self._board.policy.can
            capable = self._capable_pools[need] = [
                pool for pool in self._slots_by_pool if can(pool.skills, need)
            ]
        while capable:
            if self._slots_by_pool[capable[-1]]:
                self._slots_by_pool[capable[-1]] -= 1
                self.total -= 1
                return True
            capable.pop()
        return False
