"""What clients ask that have heard nothing for a while, and what they are answered."""

from collections.abc import Sequence
from dataclasses import dataclass

from skillq.messages import RunStatus, StatusQuery, StatusReply, TaskEvent
from skillq.transport import Outgoing
from skillq.transport.batching import split_to_fit
from skillq_manager.core import commands as c
from skillq_manager.store.base import TaskFilter, TaskRow, Views

_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What was said to a submission."""

    accepted: int
    known: int
    reason: str | None


class StatusQueries:
    """Remembers what was said to the last submissions; of runs and tasks, the store knows.

    A submission that is not remembered may be anywhere. But one that is in our store stays there.
    """

    def __init__(self, store: Views, store_id: str) -> None:
        self._store = store
        self._store_id = store_id
        self._decided: dict[str, _Remembered] = {}

    def remember(self, answer: c.AnswerSubmission) -> None:
        id = answer.submission.submission_id
        self._decided.pop(id, None)
        self._decided[id] = _Remembered(answer.accepted, answer.known, answer.reason)
        if len(self._decided) > _REMEMBERED:
            del self._decided[next(iter(self._decided))]

    def has_decided(self, submission_id: str) -> bool:
        return submission_id in self._decided

    def can_answer(self, inquiry: StatusQuery) -> bool:
        """Otherwise the answer is that the submission is to be handed in again."""
        return self.has_decided(inquiry.submission_id) or inquiry.store == self._store_id

    async def answer(self, inquiry: StatusQuery) -> list[Outgoing]:
        said = self._decided.get(inquiry.submission_id, _Remembered(0, 0, None))
        about = StatusReply(
            submission_id=inquiry.submission_id,
            number=inquiry.number,
            status=RunStatus.UNKNOWN,
            store=self._store_id,
            accepted=said.accepted,
            known=said.known,
            reason=said.reason,
        )
        if said.reason is not None:
            return [_outgoing(about, status=RunStatus.REFUSED)]
        run = await self._store.run(inquiry.run)
        if run is None or not self.can_answer(inquiry):
            return [_outgoing(about)]
        ended = run.finished_at is not None
        about = about.model_copy(
            update={
                "status": RunStatus.COMPLETED if ended else RunStatus.ACCEPTED,
                "counts": {status: n for status, n in run.counts.items() if n},
            }
        )
        return _split(about, await self._events(inquiry))

    async def _events(self, inquiry: StatusQuery) -> list[TaskEvent]:
        if not inquiry.tasks:
            return []
        which = TaskFilter(run=inquiry.run, ids=inquiry.tasks, limit=len(inquiry.tasks))
        return [_event(row) for row in await self._store.tasks(which)]


def _split(about: StatusReply, events: Sequence[TaskEvent]) -> list[Outgoing]:
    """As few messages as hold all events; each but the last says that there are more."""

    def make(events: Sequence[TaskEvent], more: bool = False) -> StatusReply:
        return about.model_copy(update={"tasks": tuple(events), "more": more})

    cut, _ = split_to_fit(lambda part: Outgoing.from_message(make(part), persistent=False), events)
    parts = [part for _, part in cut] or [[]]
    return [
        Outgoing.from_message(make(part, more=number < len(parts)), persistent=False)
        for number, part in enumerate(parts, 1)
    ]


def _outgoing(about: StatusReply, **more: object) -> Outgoing:
    return Outgoing.from_message(about.model_copy(update=more), persistent=False)


def _event(row: TaskRow) -> TaskEvent:
    """The last one of this task, as it could be heard when it happened."""
    return TaskEvent(
        id=row.task.id,
        status=row.status,
        attempt=row.attempt,
        at=row.finished_at or row.started_at or row.submitted_at,
        worker=row.worker,
        reason=row.reason,
        output=row.output,
    )
