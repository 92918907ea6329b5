"""The task queues with a backlog: which queues to refill, and which tasks to evict.

The board keeps the first tasks of a long queue in memory and leaves the rest to the store.
See docs/adr/0016-keep-deep-backlogs-in-the-store.md.
"""

from collections.abc import Iterator, Sequence
from math import inf

from skillq_manager.core.dispatch.queues import SlotTier, TaskQueue
from skillq_manager.core.model import DispatchKey, Need, Skills, TaskEntry


class Backlog:
    """Tracks exhausted and overfull task queues.

    About `keep` tasks of each queue stay in memory; 0 means that all tasks do.
    """

    def __init__(self, keep: int, tiers: Sequence[SlotTier]) -> None:
        self.keep = keep
        self.queue_capacity = 2 * keep if keep else inf
        self._tiers = tiers
        self.exhausted: dict[TaskQueue, None] = {}
        self.full: dict[TaskQueue, None] = {}  # queues with more tasks than their capacity
        # Exhausted queues from which a reserved worker may take tasks that have aged.
        self._wanted_for_ageing: dict[TaskQueue, None] = {}

    def update_exhausted(self, queue: TaskQueue) -> None:
        """Note that a queue is exhausted, if it is; its head or its cutoff has changed."""
        if queue.is_exhausted:
            self.exhausted[queue] = None

    def is_blocking(self) -> bool:
        """Return whether the task of the next match may be in the backlog."""
        return any(map(self._is_needed_now, self.exhausted))

    def wanted_refills(self) -> list[tuple[Need, DispatchKey]]:
        """Return the need and the cutoff of each queue that must be refilled now."""
        wanted = [
            queue
            for queue in self.exhausted
            if self._is_needed_now(queue) or queue in self._wanted_for_ageing
        ]
        self._wanted_for_ageing.clear()
        return [(queue.need, queue.cutoff) for queue in wanted if queue.cutoff is not None]

    def _is_needed_now(self, queue: TaskQueue) -> bool:
        """Return whether a worker has room for the next task of an exhausted queue."""
        fits = queue.fits.keys()
        return any(not fits.isdisjoint(tier.open_pools) for tier in self._tiers)

    def want_for_ageing(self, queue: TaskQueue) -> None:
        """Refill an exhausted queue in this round, though only aged tasks of it can be matched."""
        self._wanted_for_ageing[queue] = None

    def open_skills(self) -> set[Skills]:
        """Return the skills of all workers that have room for an attempt."""
        return {pool.skills for tier in self._tiers for pool in tier.open_pools}

    def overflow(self) -> Iterator[TaskEntry]:
        """Yield the last tasks of the overfull queues, which the caller evicts."""
        for queue in self.full:
            tasks = queue.last_tasks(self.keep + 1, self.keep)
            if tasks:
                queue.cutoff = min(tasks[0].dispatch_key, queue.cutoff or tasks[0].dispatch_key)
            # A queue that gave less than the limit has nothing more to evict: its capacity grows, so that
            # it is not searched again for every new task.
            remaining = len(queue.heap) - len(tasks) if len(tasks) <= self.keep else 0
            queue.capacity = max(self.queue_capacity, remaining + self.keep)
            yield from tasks
        self.full.clear()
