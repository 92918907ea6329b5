"""Buffer for submissions in several messages: keeps the parts until all have arrived.

Until then the parts are not acknowledged. The submission is decided as a whole. If the manager dies earlier,
the broker delivers all parts again. See docs/adr/0013-split-large-submissions-into-parts.md.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from skillq import timings
from skillq.messages import MAX_PARTS, Submission, decode
from skillq.runtime.clock import Clock
from skillq.transport import Consumer, Delivery

MAX_HELD_PARTS = 2 * MAX_PARTS  # of incomplete submissions; the consumer's prefetch is larger

_SubmissionKey = tuple[str, str, str, int]  # submission id, run, title of the run, number of parts


class HeldPart(NamedTuple):
    """The delivery of a part; its tasks are decoded again when all parts have arrived."""

    consumer: Consumer
    delivery: Delivery


@dataclass(slots=True)
class Partial:
    """The parts of one submission that have arrived."""

    key: _SubmissionKey
    received_at: float = 0.0
    held_parts: dict[int, HeldPart] = field(default_factory=dict)  # by number of the part

    @property
    def part_count(self) -> int:
        """Return how many parts the submission has."""
        return self.key[-1]

    @property
    def is_complete(self) -> bool:
        """Return whether all parts have arrived."""
        return len(self.held_parts) == self.part_count

    async def read_parts(self) -> list[Submission]:
        """Return the parts, in order; let other coroutines run in between: this may take seconds."""
        parts: list[Submission] = []
        for number in sorted(self.held_parts):
            part = decode(self.held_parts[number].delivery.body)
            if isinstance(part, Submission):
                parts.append(part)
            await asyncio.sleep(0)
        return parts

    async def merge_parts(self) -> Submission:
        """Return all tasks as one submission.

        Raises:
            ValidationError: the tasks are not valid together, such as a cycle of dependencies.
        """
        id, run, title, _ = self.key
        tasks = tuple(task for part in await self.read_parts() for task in part.tasks)
        return Submission(submission_id=id, run=run, run_title=title, tasks=tasks)


class MultipartBuffer:
    """Keeps the parts of incomplete submissions; its length is the number of parts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._partials: dict[_SubmissionKey, Partial] = {}  # in the order of their first parts
        self._next_requeue_at = 0.0

    def __len__(self) -> int:
        return sum(len(partial.held_parts) for partial in self._partials.values())

    def clear(self) -> None:
        """Drop all parts; the broker delivers them again, to the next leader."""
        self._partials.clear()

    def add_part(self, part: Submission, consumer: Consumer, delivery: Delivery) -> HeldPart | None:
        """Keep a part; return an earlier copy of the same part, or None if there is none."""
        key = (part.submission_id, part.run, part.run_title, part.parts)
        partial = self._partials.setdefault(key, Partial(key))
        partial.received_at = self._clock()
        earlier = partial.held_parts.get(part.part)
        partial.held_parts[part.part] = HeldPart(consumer, delivery)
        return earlier

    def take_complete(self) -> list[Partial]:
        """Remove and return the submissions of which all parts have arrived."""
        return self._remove(partial for partial in self._partials.values() if partial.is_complete)

    def take_expired(self) -> list[Partial]:
        """Remove and return the submissions of which no part has come for PARTS_SILENCE_SECONDS."""
        latest = self._clock() - timings.PARTS_SILENCE_SECONDS
        return self._remove(one for one in self._partials.values() if one.received_at <= latest)

    def take_excess(self) -> list[Partial]:
        """Remove and return the submission that began last, if more than MAX_HELD_PARTS are held.

        Its parts are requeued, since missing parts of the others may be behind them in the queue. So the first
        submission is complete once the whole queue has been delivered.
        """
        if len(self) <= MAX_HELD_PARTS or self._clock() < self._next_requeue_at:
            return []
        self._next_requeue_at = self._clock() + timings.PARTS_REQUEUE_SECONDS
        return self._remove([next(reversed(self._partials.values()))])

    def _remove(self, partials: Iterable[Partial]) -> list[Partial]:
        return [self._partials.pop(partial.key) for partial in list(partials)]

    def put_back(self, partial: Partial) -> None:
        """Keep a submission again that was removed and could not be requeued."""
        self._partials[partial.key] = partial

    def next_deadline(self) -> float | None:
        """Return when a submission expires or may be requeued, or None."""
        due = [one.received_at + timings.PARTS_SILENCE_SECONDS for one in self._partials.values()]
        if len(self) > MAX_HELD_PARTS:
            due.append(self._next_requeue_at)
        return min(due, default=None)
