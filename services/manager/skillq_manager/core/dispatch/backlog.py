"""The classes of which the store keeps a part: what is to be fetched from there, and what has to go there."""

from collections.abc import Iterator, Sequence
from math import inf

from skillq_manager.core.classes import Class, Tier
from skillq_manager.core.model import Need, Place, Skills, TaskEntry


class Shelves:
    """`head`: of a class, about so many tasks stay here; 0: all of them do."""

    def __init__(self, head: int, tiers: Sequence[Tier]) -> None:
        self.head = head
        self.room = 2 * head if head else inf
        self._tiers = tiers
        self.dry: dict[Class, None] = {}
        self.full: dict[Class, None] = {}  # have more than room
        self._missed: dict[
            Class, None
        ] = {}  # dry ones that a reserved worker may take from once they have aged

    def note(self, cls: Class) -> None:
        """Its head is gone, or on the shelf."""
        if cls.is_dry:
            self.dry[cls] = None

    def holds_up(self) -> bool:
        """Whether what goes next may be on a shelf."""
        return any(map(self._is_wanted, self.dry))

    def wanted(self) -> list[tuple[Need, Place]]:
        """The shelves from which something is wanted now, and from where on."""
        wanted = [cls for cls in self.dry if self._is_wanted(cls) or cls in self._missed]
        self._missed.clear()
        return [(cls.need, cls.horizon) for cls in wanted if cls.horizon is not None]

    def _is_wanted(self, cls: Class) -> bool:
        """Whether a worker could be given the first task of a dry class."""
        fits = cls.fits.keys()
        return any(not fits.isdisjoint(tier.open) for tier in self._tiers)

    def miss(self, cls: Class) -> None:
        self._missed[cls] = None

    def waiting_skills(self) -> set[Skills]:
        """Of workers that could be given something."""
        return {pool.skills for tier in self._tiers for pool in tier.open}

    def overflow(self) -> Iterator[TaskEntry]:
        """The last tasks of the classes that have more than room: they have to go."""
        for cls in self.full:
            tasks = cls.last(self.head + 1, self.head)
            if tasks:
                cls.horizon = min(tasks[0].place, cls.horizon or tasks[0].place)
            # Where it gave less than was asked for, it has no more that can go: it is not asked for each task that comes.
            stay = len(cls.heap) - len(tasks) if len(tasks) <= self.head else 0
            cls.room = max(self.room, stay + self.head)
            yield from tasks
        self.full.clear()
