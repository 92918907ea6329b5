"""Submissions that come in parts: kept, unacknowledged, until the last is there.

They are decided as a whole then, and acknowledged after that: whoever dies before, the broker delivers all again.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from skillq import timings
from skillq.clock import Clock
from skillq.messages import MAX_PARTS, Submission, decode
from skillq.transport import Consumer, Delivery

ROOM = 2 * MAX_PARTS  # parts that may wait; the consumer's prefetch is larger

_Key = tuple[str, str, str, int]


class Held(NamedTuple):
    """Where a part came from. What is in it is read again when all are there."""

    consumer: Consumer
    delivery: Delivery


@dataclass(slots=True)
class Pile:
    """What there is of one submission."""

    key: _Key
    heard_at: float = 0.0
    held: dict[int, Held] = field(default_factory=dict)  # by number

    @property
    def parts(self) -> int:
        return self.key[-1]

    @property
    def is_whole(self) -> bool:
        return len(self.held) == self.parts

    async def read(self) -> list[Submission]:
        """Its parts, in order. Between them others get their turn: it may take seconds."""
        found: list[Submission] = []
        for number in sorted(self.held):
            part = decode(self.held[number].delivery.body)
            if isinstance(part, Submission):
                found.append(part)
            await asyncio.sleep(0)
        return found

    async def merged(self) -> Submission:
        """All its tasks as one submission.

        Raises:
            ValidationError: together they cannot all be done.
        """
        id, run, title, _ = self.key
        tasks = tuple(task for part in await self.read() for task in part.tasks)
        return Submission(submission_id=id, run=run, run_title=title, tasks=tasks)


class Parts:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._piles: dict[_Key, Pile] = {}  # in the order in which they were begun
        self._turn_at = 0.0

    def __len__(self) -> int:
        return sum(len(pile.held) for pile in self._piles.values())

    def clear(self) -> None:
        self._piles.clear()

    def add(self, part: Submission, consumer: Consumer, delivery: Delivery) -> Held | None:
        """Keep a part. Returns the earlier one of the same number: the broker has given us another copy."""
        key = (part.submission_id, part.run, part.run_title, part.parts)
        pile = self._piles.setdefault(key, Pile(key))
        pile.heard_at = self._clock()
        earlier = pile.held.get(part.part)
        pile.held[part.part] = Held(consumer, delivery)
        return earlier

    def take_whole(self) -> list[Pile]:
        return self._take(pile for pile in self._piles.values() if pile.is_whole)

    def take_hopeless(self) -> list[Pile]:
        """Those whose rest does not come."""
        latest = self._clock() - timings.PARTS_SILENCE_SECONDS
        return self._take(pile for pile in self._piles.values() if pile.heard_at <= latest)

    def take_excess(self) -> list[Pile]:
        """Where there is no room for more, the one that was begun last: others' rest may be behind it.

        So the first of them is whole when all that is in the queue has come by once.
        """
        if len(self) <= ROOM or self._clock() < self._turn_at:
            return []
        self._turn_at = self._clock() + timings.PARTS_TURN_SECONDS
        return self._take([next(reversed(self._piles.values()))])

    def _take(self, piles: Iterable[Pile]) -> list[Pile]:
        return [self._piles.pop(pile.key) for pile in list(piles)]

    def put_back(self, pile: Pile) -> None:
        self._piles[pile.key] = pile

    def next_deadline(self) -> float | None:
        """When there is something to do even if nothing comes."""
        due = [pile.heard_at + timings.PARTS_SILENCE_SECONDS for pile in self._piles.values()]
        if len(self) > ROOM:
            due.append(self._turn_at)
        return min(due, default=None)
