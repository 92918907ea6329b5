"""Answers to status queries: a client that receives nothing asks about its submission.

See docs/adr/0006-answer-clients-with-events.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from skillq.messages import RunStatus, StatusQuery, StatusReply, TaskEvent
from skillq.transport import Outgoing
from skillq.transport.batching import split_to_fit
from skillq_manager.core import commands as c
from skillq_manager.store.base import TaskFilter, TaskRow, Views

_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _SubmissionAnswer:
    """The answer to a submission; `reason` is None if the submission was accepted."""

    accepted: int
    known: int
    reason: str | None


class StatusQueries:
    """Remembers the last 10,000 answers to submissions; reads runs and tasks from the store.

    A submission whose answer is not remembered may still be on its way, or may be lost. But a submission that
    was accepted into this manager's store stays there.
    """

    def __init__(self, store: Views, store_id: str) -> None:
        self._store = store
        self._store_id = store_id
        self._answers: dict[str, _SubmissionAnswer] = {}

    def remember(self, answer: c.AnswerSubmission) -> None:
        """Remember the answer to a submission, and drop the oldest answer if there are too many."""
        id = answer.submission.submission_id
        self._answers.pop(id, None)
        self._answers[id] = _SubmissionAnswer(answer.accepted, answer.known, answer.reason)
        if len(self._answers) > _MAX_REMEMBERED:
            del self._answers[next(iter(self._answers))]

    def has_decided(self, submission_id: str) -> bool:
        """Return whether the answer to this submission is remembered."""
        return submission_id in self._answers

    def can_answer(self, query: StatusQuery) -> bool:
        """Return whether the answer is known here; if not, the client submits again."""
        return self.has_decided(query.submission_id) or query.store == self._store_id

    async def answer(self, query: StatusQuery) -> list[Outgoing]:
        """Return the messages that answer a query, with the last event of each task it names."""
        answer = self._answers.get(query.submission_id, _SubmissionAnswer(0, 0, None))
        reply = StatusReply(
            submission_id=query.submission_id,
            number=query.number,
            status=RunStatus.UNKNOWN,
            store=self._store_id,
            accepted=answer.accepted,
            known=answer.known,
            reason=answer.reason,
        )
        if answer.reason is not None:
            return [_outgoing(reply, status=RunStatus.REFUSED)]
        run = await self._store.run(query.run)
        if run is None or not self.can_answer(query):
            return [_outgoing(reply)]
        ended = run.finished_at is not None
        reply = reply.model_copy(
            update={
                "status": RunStatus.COMPLETED if ended else RunStatus.ACCEPTED,
                "counts": {status: n for status, n in run.counts.items() if n},
            }
        )
        return _split_reply(reply, await self._task_events(query))

    async def _task_events(self, query: StatusQuery) -> list[TaskEvent]:
        if not query.tasks:
            return []
        filter = TaskFilter(run=query.run, ids=query.tasks, limit=len(query.tasks))
        return [_last_event(row) for row in await self._store.tasks(filter)]


def _split_reply(reply: StatusReply, events: Sequence[TaskEvent]) -> list[Outgoing]:
    """Return the reply in as few messages as hold all events; all but the last have `more`."""

    def make(events: Sequence[TaskEvent], more: bool = False) -> StatusReply:
        return reply.model_copy(update={"tasks": tuple(events), "more": more})

    cut, _ = split_to_fit(lambda part: Outgoing.from_message(make(part), persistent=False), events)
    parts = [part for _, part in cut] or [[]]
    return [
        Outgoing.from_message(make(part, more=number < len(parts)), persistent=False)
        for number, part in enumerate(parts, 1)
    ]


def _outgoing(reply: StatusReply, **changes: object) -> Outgoing:
    return Outgoing.from_message(reply.model_copy(update=changes), persistent=False)


def _last_event(row: TaskRow) -> TaskEvent:
    """Return the event that was published when the task got its present status."""
    return TaskEvent(
        id=row.task.id,
        status=row.status,
        attempt=row.attempt,
        at=row.finished_at or row.started_at or row.submitted_at,
        worker=row.worker,
        reason=row.reason,
        output=row.output,
    )
