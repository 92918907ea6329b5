"""Submissions that come in parts: kept, unacknowledged, until the last is there.

They are decided as a whole then, and acknowledged after that: whoever dies before, the broker delivers all again.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from skillq import timings
from skillq.messages import MAX_PARTS, Submission, decode
from skillq.runtime.clock import Clock
from skillq.transport import Consumer, Delivery

ROOM = 2 * MAX_PARTS  # parts that may wait; the consumer's prefetch is larger

_Key = tuple[str, str, str, int]


class HeldPart(NamedTuple):
    """Where a part came from. What is in it is read again when all are there."""

    consumer: Consumer
    delivery: Delivery


@dataclass(slots=True)
class Partial:
    """What there is of one submission."""

    key: _Key
    received_at: float = 0.0
    held: dict[int, HeldPart] = field(default_factory=dict)  # by number

    @property
    def parts(self) -> int:
        return self.key[-1]

    @property
    def is_complete(self) -> bool:
        return len(self.held) == self.parts

    async def read_parts(self) -> list[Submission]:
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
        tasks = tuple(task for part in await self.read_parts() for task in part.tasks)
        return Submission(submission_id=id, run=run, run_title=title, tasks=tasks)


class MultipartBuffer:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._partials: dict[_Key, Partial] = {}  # in the order in which they were begun
        self._turn_at = 0.0

    def __len__(self) -> int:
        return sum(len(pile.held) for pile in self._partials.values())

    def clear(self) -> None:
        self._partials.clear()

    def add_part(self, part: Submission, consumer: Consumer, delivery: Delivery) -> HeldPart | None:
        """Keep a part. Returns the earlier one of the same number: the broker has given us another copy."""
        key = (part.submission_id, part.run, part.run_title, part.parts)
        pile = self._partials.setdefault(key, Partial(key))
        pile.received_at = self._clock()
        earlier = pile.held.get(part.part)
        pile.held[part.part] = HeldPart(consumer, delivery)
        return earlier

    def take_complete(self) -> list[Partial]:
        return self._take(pile for pile in self._partials.values() if pile.is_complete)

    def take_expired(self) -> list[Partial]:
        """Those whose rest does not come."""
        latest = self._clock() - timings.PARTS_SILENCE_SECONDS
        return self._take(pile for pile in self._partials.values() if pile.received_at <= latest)

    def take_excess(self) -> list[Partial]:
        """Where there is no room for more, the one that was begun last: others' rest may be behind it.

        So the first of them is whole when all that is in the queue has come by once.
        """
        if len(self) <= ROOM or self._clock() < self._turn_at:
            return []
        self._turn_at = self._clock() + timings.PARTS_REQUEUE_SECONDS
        return self._take([next(reversed(self._partials.values()))])

    def _take(self, piles: Iterable[Partial]) -> list[Partial]:
        return [self._partials.pop(pile.key) for pile in list(piles)]

    def put_back(self, pile: Partial) -> None:
        self._partials[pile.key] = pile

    def next_deadline(self) -> float | None:
        """When there is something to do even if nothing comes."""
        due = [pile.received_at + timings.PARTS_SILENCE_SECONDS for pile in self._partials.values()]
        if len(self) > ROOM:
            due.append(self._turn_at)
        return min(due, default=None)
