"""The classes of which the store keeps a part: what is to be fetched from there, and what has to go there."""

from collections.abc import Iterator, Sequence
from math import inf

from skillq_manager.core.dispatch.queues import SlotTier, TaskQueue
from skillq_manager.core.model import DispatchKey, Need, Skills, TaskEntry


class Backlog:
    """`head`: of a class, about so many tasks stay here; 0: all of them do."""

    def __init__(self, head: int, tiers: Sequence[SlotTier]) -> None:
        self.keep = head
        self.room = 2 * head if head else inf
        self._tiers = tiers
        self.exhausted: dict[TaskQueue, None] = {}
        self.full: dict[TaskQueue, None] = {}  # have more than room
        self._missed: dict[
            TaskQueue, None
        ] = {}  # dry ones that a reserved worker may take from once they have aged

    def update(self, queue: TaskQueue) -> None:
        """Its head is gone, or on the shelf."""
        if queue.is_exhausted:
            self.exhausted[queue] = None

    def is_blocking(self) -> bool:
        """Whether what goes next may be on a shelf."""
        return any(map(self._is_wanted, self.exhausted))

    def wanted(self) -> list[tuple[Need, DispatchKey]]:
        """The shelves from which something is wanted now, and from where on."""
        wanted = [
            queue for queue in self.exhausted if self._is_wanted(queue) or queue in self._missed
        ]
        self._missed.clear()
        return [(queue.need, queue.cutoff) for queue in wanted if queue.cutoff is not None]

    def _is_wanted(self, queue: TaskQueue) -> bool:
        """Whether a worker could be given the first task of a dry class."""
        fits = queue.fits.keys()
        return any(not fits.isdisjoint(tier.open) for tier in self._tiers)

    def want(self, queue: TaskQueue) -> None:
        self._missed[queue] = None

    def waiting_skills(self) -> set[Skills]:
        """Of workers that could be given something."""
        return {pool.skills for tier in self._tiers for pool in tier.open}

    def overflow(self) -> Iterator[TaskEntry]:
        """The last tasks of the classes that have more than room: they have to go."""
        for queue in self.full:
            tasks = queue.last(self.keep + 1, self.keep)
            if tasks:
                queue.cutoff = min(tasks[0].dispatch_key, queue.cutoff or tasks[0].dispatch_key)
            # Where it gave less than was asked for, it has no more that can go: it is not asked for each task that comes.
            stay = len(queue.heap) - len(tasks) if len(tasks) <= self.keep else 0
            queue.room = max(self.room, stay + self.keep)
            yield from tasks
        self.full.clear()
