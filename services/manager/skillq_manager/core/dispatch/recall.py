"""No worker idles while another holds attempts that wait: those are handed back, and given out anew."""

from collections.abc import Iterator
from itertools import islice

from skillq import timings
from skillq.messages import TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import LookaheadPolicy, waiting
from skillq_manager.core.dispatch.queues import WorkerPool
from skillq_manager.core.model import Need, TaskEntry, WorkerEntry
from skillq_manager.core.round import RoundState

_LOOKED_AT = 10_000  # attempts in one look, so that none takes long


class Recalls:
    """Looks now and then, as long as somebody is idle and somebody has attempts waiting."""

    def __init__(self, turn: RoundState, board: Board, policy: LookaheadPolicy) -> None:
        self._turn = turn
        self._board = board
        self._policy = policy
        self._next_look = 0.0

    def next_look(self) -> float | None:
        """When there may be something to do even if nothing happens."""
        return self._next_look if self._board.is_uneven else None

    def look(self) -> None:
        """Recall what has waited for too long, as much as there are idle slots for."""
        if not self._board.is_uneven or self._turn.now < self._next_look:
            return
        self._next_look = self._turn.now + self._policy.recall_after / 2
        if not self._turn.has_listened_for(self._policy.recall_after):
            return  # what seems to wait may have ended long ago
        idle = _IdleSlots(self._board)
        left = _LOOKED_AT
        for worker in self._board.next_overcommitted():
            left -= len(worker.attempts)
            self._recall(worker, idle)
            if not idle.slots or left < 0:
                return

    def _recall(self, worker: WorkerEntry, idle: "_IdleSlots") -> None:
        """The newest first: the oldest may begin at any moment."""
        oldest = next(waiting(worker))
        if self._turn.now - oldest.assigned_at < self._policy.recall_after:
            return
        newest = islice(reversed(worker.attempts.values()), len(worker.attempts) - worker.slots)
        found = tuple(self._found(newest, idle))
        if not found:
            return
        for task in found:
            task.recalled_at = self._turn.now
        worker.recall_pending = True
        self._board.worker_changed(worker)
        refs = tuple(task.ref for task in found)
        self._turn.commands.append(c.RecallAttempts(worker.profile, self._turn.store, refs))

    def _found(self, newest: Iterator[TaskEntry], idle: "_IdleSlots") -> Iterator[TaskEntry]:
        for task in newest:
            if not idle.slots:
                return
            if task.status is not TaskStatus.ASSIGNED or not idle.take_slot(task.need):
                continue
            asked_at = task.recalled_at
            if asked_at is None or self._turn.now - asked_at >= timings.RECALL_RETRY_SECONDS:
                yield task


class _IdleSlots:
    """The slots that nothing on the board is for."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._pools = board.idle_slots()
        self._able: dict[Need, list[WorkerPool]] = {}
        self.slots = sum(self._pools.values())

    def take_slot(self, need: Need) -> bool:
        """Set a slot aside for a task with this need; False where none is left."""
        able = self._able.get(need)
        if able is None:
            can = self._board.policy.can
            able = self._able[need] = [pool for pool in self._pools if can(pool.skills, need)]
        while able:
            if self._pools[able[-1]]:
                self._pools[able[-1]] -= 1
                self.slots -= 1
                return True
            able.pop()
        return False
