"""Sorts what has arrived: events for the core, status queries, deliveries to acknowledge.

Unreadable messages go to the dead-letter queue. The parts of large submissions are joined. Submissions and
operators' requests get the stored facts that the core needs to decide them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from skillq import timings, topology
from skillq.errors import TransportError
from skillq.messages import Probe, StatusQuery, Submission, first_error
from skillq.runtime.logs import Log
from skillq.transport import Consumer, Delivery, Outgoing, Transport, dead_letter
from skillq_manager.core import events as e
from skillq_manager.core.model import TaskKey
from skillq_manager.inbound.inbox import Inbound, Received
from skillq_manager.inbound.multipart import MultipartBuffer, Partial
from skillq_manager.inbound.status_queries import StatusQueries
from skillq_manager.outbound.counters import Counters
from skillq_manager.store.base import Store

_LARGE_ROUND_TASKS = 10_000  # new tasks; a decision on more takes long
_MAX_TITLES = 4096  # titles of runs that are remembered

log = structlog.get_logger()


@dataclass(slots=True)
class Round:
    """Everything that one round handles; `to_acknowledge` has the deliveries of the messages."""

    events: list[e.Event] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)
    status_queries: list[StatusQuery] = field(default_factory=list)
    to_acknowledge: list[tuple[Consumer, Sequence[Delivery]]] = field(default_factory=list)

    @property
    def is_large(self) -> bool:
        """Return whether the core needs a long time to decide this round."""
        return sum(len(submission.tasks) for submission in self.submissions) > _LARGE_ROUND_TASKS


class Triage:
    """Sorts received messages; calls `on_message` with each message of a worker or a manager."""

    def __init__(
        self,
        transport: Transport,
        store: Store,
        multipart: MultipartBuffer,
        status_queries: StatusQueries,
        *,
        counters: Counters,
        on_message: Callable[[Inbound], None],
    ) -> None:
        self._transport = transport
        self._store = store
        self._multipart = multipart
        self._status_queries = status_queries
        self._counters = counters
        self._on_message = on_message
        self._titles: dict[str, str] = {}

    async def sort(self, received: Received, *, draining: bool = False) -> Round:
        """Sort everything that has arrived into a round.

        With `draining`, submissions and the status queries that this manager cannot answer are left, not
        acknowledged, to the next manager.
        """
        events = [await self._with_backlog(event) for event in received.events]
        round = Round(events, [] if draining else list(received.submissions))
        for consumer, messages in received.deliveries:
            readable: list[Delivery] = []
            round.to_acknowledge.append((consumer, readable))
            for delivery, message, error in messages:
                if message is None:
                    await self._move_unreadable(consumer, delivery, error)
                    continue
                if draining and self._is_for_next_manager(message):
                    continue
                if isinstance(message, Submission) and message.parts > 1:
                    self._add_part(round, message, consumer, delivery)
                    continue
                readable.append(delivery)
                self._add_message(round, message)
        await self._process_parts(round)
        round.events += await self._with_known_tasks(round.submissions)
        if not draining:
            round.events += [await self._with_stored_tasks(*retry) for retry in received.retries]
        return round

    async def _move_unreadable(self, consumer: Consumer, delivery: Delivery, reason: str) -> None:
        log.warning(Log.MESSAGE_UNREADABLE, queue=delivery.queue, reason=reason)
        try:
            await dead_letter(self._transport, consumer, delivery, reason)
            self._counters.unreadable += 1
        except TransportError:
            await consumer.nack(delivery, requeue=True)

    def _is_for_next_manager(self, message: Inbound) -> bool:
        if isinstance(message, StatusQuery):
            return not self._status_queries.can_answer(message)
        return isinstance(message, Submission)

    def _add_message(self, round: Round, message: Inbound) -> None:
        match message:
            case Submission():
                round.submissions.append(message)
            case StatusQuery():
                round.status_queries.append(message)
            case Probe():
                self._on_message(message)
            case _:
                self._on_message(message)
                round.events.append(message)

    # --- submissions in parts

    def _add_part(
        self, round: Round, part: Submission, consumer: Consumer, delivery: Delivery
    ) -> None:
        if self._status_queries.has_decided(part.submission_id):
            # This part was acknowledged before, but the acknowledgement was lost.
            round.to_acknowledge.append((consumer, [delivery]))
            return
        earlier = self._multipart.add_part(part, consumer, delivery)
        if earlier is not None:
            round.to_acknowledge.append((earlier.consumer, [earlier.delivery]))

    async def _process_parts(self, round: Round) -> None:
        for partial in self._multipart.take_complete():
            _acknowledge_parts(round, partial)
            try:
                round.submissions.append(await partial.merge_parts())
            except ValidationError as error:
                round.events.append(
                    e.SubmissionInvalid((await partial.read_parts())[0], first_error(error))
                )
        for partial in self._multipart.take_expired():
            await self._refuse_incomplete(round, partial)
        for partial in self._multipart.take_excess():
            await self._requeue_parts(round, partial)

    async def _refuse_incomplete(self, round: Round, partial: Partial) -> None:
        _acknowledge_parts(round, partial)
        parts = await partial.read_parts()
        if await self._are_stored(parts):
            return  # the submission was accepted before, but not all parts were acknowledged
        reason = (
            f"{partial.part_count - len(parts)} of the {partial.part_count} messages of this submission "
            f"did not come within {timings.PARTS_SILENCE_SECONDS:g} s; submit it again"
        )
        round.events.append(e.SubmissionInvalid(parts[0], reason))

    async def _requeue_parts(self, round: Round, partial: Partial) -> None:
        """Publish the parts again, to the end of the queue, so that parts behind them can arrive."""
        try:
            for _, delivery in partial.held_parts.values():
                copy = Outgoing(delivery.body, delivery.type, message_id=delivery.message_id)
                await self._transport.publish(delivery.exchange, delivery.routing_key, copy)
        except TransportError as error:
            log.warning(
                Log.PUBLISH_NOT_CONFIRMED, key=topology.MANAGER_SUBMISSIONS, error=str(error)
            )
            self._multipart.put_back(partial)
        else:
            _acknowledge_parts(round, partial)

    async def _are_stored(self, parts: Sequence[Submission]) -> bool:
        tasks = {(part.run, task.id): task for part in parts for task in part.tasks}
        known = await self._store.known_tasks(tasks)
        return all(
            key in known and known[key].fingerprint == task.fingerprint()
            for key, task in tasks.items()
        )

    # --- events with what the store knows

    async def _with_stored_tasks(self, request: str, keys: Sequence[TaskKey]) -> e.Event:
        """Return the event of a retry request, with its tasks and their dependencies as stored."""
        rows = [row for key in keys if (row := await self._store.task(key)) is not None]
        known = await self._store.known_tasks(
            {(row.run, d) for row in rows for d in row.task.depends_on}
        )
        stored = tuple(
            e.StoredTask(
                (row.run, row.task.id), row.seq, row.task, row.fingerprint, row.status, row.attempt
            )
            for row in rows
        )
        return e.RetryRequested(request, stored, known)

    async def _with_backlog(self, event: e.Event) -> e.Event:
        """Add to a cancel request its tasks in the backlog, which only the store has."""
        if not isinstance(event, e.CancelRequested):
            return event
        rows = await self._store.backlog_tasks(event.run, event.ids)
        return event._replace(backlog=tuple(rows))

    async def _with_known_tasks(self, submissions: Sequence[Submission]) -> list[e.Event]:
        """Return an event for each submission, with what the store knows of the tasks it names."""
        keys: set[TaskKey] = {
            (s.run, id)
            for s in submissions
            for task in s.tasks
            for id in (task.id, *task.depends_on)
        }
        if not keys:
            return []
        titles = {
            run: await self._run_title(run) for run in dict.fromkeys(s.run for s in submissions)
        }
        # A run that does not exist has no known tasks.
        keys = {key for key in keys if titles[key[0]] is not None}
        known = await self._store.known_tasks(keys) if keys else {}
        return [e.SubmissionReceived(s, known, titles[s.run]) for s in submissions]

    async def _run_title(self, run: str) -> str | None:
        """Return the title of a run, or None if there is no such run; a title never changes."""
        if run not in self._titles and (row := await self._store.run(run)) is not None:
            if len(self._titles) >= _MAX_TITLES:
                self._titles.clear()
            self._titles[run] = row.title
        return self._titles.get(run)


def _acknowledge_parts(round: Round, partial: Partial) -> None:
    """Let the round acknowledge all parts of a submission."""
    by_consumer: dict[int, tuple[Consumer, list[Delivery]]] = {}
    for held in partial.held_parts.values():
        _, deliveries = by_consumer.setdefault(id(held.consumer), (held.consumer, []))
        deliveries.append(held.delivery)
    round.to_acknowledge += by_consumer.values()
