"""What has arrived, sorted: events for the core, questions, and what may be acknowledged once it is decided."""

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

_MANY = 10_000  # tasks
_TITLES = 4096  # of runs, that are remembered

log = structlog.get_logger()


@dataclass(slots=True)
class Round:
    """All that one round deals with."""

    events: list[e.Event] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)
    status_queries: list[StatusQuery] = field(default_factory=list)
    settled: list[tuple[Consumer, Sequence[Delivery]]] = field(default_factory=list)

    @property
    def is_large(self) -> bool:
        """To decide it takes a while."""
        return sum(len(submission.tasks) for submission in self.submissions) > _MANY


class Triage:
    """`notice` is shown what workers and managers say."""

    def __init__(
        self,
        transport: Transport,
        store: Store,
        parts: MultipartBuffer,
        inquiries: StatusQueries,
        *,
        tally: Counters,
        notice: Callable[[Inbound], None],
    ) -> None:
        self._transport = transport
        self._store = store
        self._parts = parts
        self._inquiries = inquiries
        self._tally = tally
        self._on_message = notice
        self._titles: dict[str, str] = {}

    async def sort(self, intake: Received, *, leaving: bool = False) -> Round:
        """Who is leaving takes nothing new: what clients want stays with the broker, for the next manager."""
        events = [await self._with_backlog(event) for event in intake.events]
        mail = Round(events, [] if leaving else list(intake.submissions))
        for consumer, arrivals in intake.deliveries:
            good: list[Delivery] = []
            mail.settled.append((consumer, good))
            for delivery, message, complaint in arrivals:
                if message is None:
                    await self._dead_letter(consumer, delivery, complaint)
                    continue
                if leaving and self._is_for_next_manager(message):
                    continue
                if isinstance(message, Submission) and message.parts > 1:
                    self._add_part(mail, message, consumer, delivery)
                    continue
                good.append(delivery)
                self._add_message(mail, message)
        await self._process_parts(mail)
        mail.events += await self._with_known(mail.submissions)
        if not leaving:
            mail.events += [await self._with_stored_tasks(*retry) for retry in intake.retries]
        return mail

    async def _dead_letter(self, consumer: Consumer, delivery: Delivery, reason: str) -> None:
        log.warning(Log.MESSAGE_UNREADABLE, queue=delivery.queue, reason=reason)
        try:
            await dead_letter(self._transport, consumer, delivery, reason)
            self._tally.unreadable += 1
        except TransportError:
            await consumer.nack(delivery, requeue=True)

    def _is_for_next_manager(self, message: Inbound) -> bool:
        if isinstance(message, StatusQuery):
            return not self._inquiries.can_answer(message)
        return isinstance(message, Submission)

    def _add_message(self, mail: Round, message: Inbound) -> None:
        match message:
            case Submission():
                mail.submissions.append(message)
            case StatusQuery():
                mail.status_queries.append(message)
            case Probe():
                self._on_message(message)
            case _:
                self._on_message(message)
                mail.events.append(message)

    # --- submissions in parts

    def _add_part(
        self, mail: Round, part: Submission, consumer: Consumer, delivery: Delivery
    ) -> None:
        if self._inquiries.has_decided(part.submission_id):
            mail.settled.append((consumer, [delivery]))  # its acknowledgement was lost
            return
        earlier = self._parts.add_part(part, consumer, delivery)
        if earlier is not None:
            mail.settled.append((earlier.consumer, [earlier.delivery]))

    async def _process_parts(self, mail: Round) -> None:
        for pile in self._parts.take_complete():
            _settle(mail, pile)
            try:
                mail.submissions.append(await pile.merged())
            except ValidationError as error:
                mail.events.append(
                    e.SubmissionInvalid((await pile.read_parts())[0], first_error(error))
                )
        for pile in self._parts.take_expired():
            await self._refuse_incomplete(mail, pile)
        for pile in self._parts.take_excess():
            await self._requeue_parts(mail, pile)

    async def _refuse_incomplete(self, mail: Round, pile: Partial) -> None:
        _settle(mail, pile)
        parts = await pile.read_parts()
        if await self._are_stored(parts):
            return  # it was taken in as a whole before, and not all of that was acknowledged
        reason = (
            f"{pile.parts - len(parts)} of the {pile.parts} messages of this submission "
            f"did not come within {timings.PARTS_SILENCE_SECONDS:g} s; submit it again"
        )
        mail.events.append(e.SubmissionInvalid(parts[0], reason))

    async def _requeue_parts(self, mail: Round, pile: Partial) -> None:
        """To the end of the queue."""
        try:
            for _, delivery in pile.held.values():
                copy = Outgoing(delivery.body, delivery.type, message_id=delivery.message_id)
                await self._transport.publish(delivery.exchange, delivery.routing_key, copy)
        except TransportError as error:
            log.warning(
                Log.PUBLISH_NOT_CONFIRMED, key=topology.MANAGER_SUBMISSIONS, error=str(error)
            )
            self._parts.put_back(pile)
        else:
            _settle(mail, pile)

    async def _are_stored(self, parts: Sequence[Submission]) -> bool:
        tasks = {(part.run, task.id): task for part in parts for task in part.tasks}
        known = await self._store.known_tasks(tasks)
        return all(
            key in known and known[key].fingerprint == task.fingerprint()
            for key, task in tasks.items()
        )

    # --- with what the store knows of them

    async def _with_stored_tasks(self, request: str, keys: Sequence[TaskKey]) -> e.Event:
        """Tasks to be sent again, as the store has them now."""
        rows = [row for key in keys if (row := await self._store.task(key)) is not None]
        known = await self._store.known_tasks(
            {(row.run, d) for row in rows for d in row.task.depends_on}
        )
        again = tuple(
            e.StoredTask(
                (row.run, row.task.id), row.seq, row.task, row.fingerprint, row.status, row.attempt
            )
            for row in rows
        )
        return e.RetryRequested(request, again, known)

    async def _with_backlog(self, event: e.Event) -> e.Event:
        """What is called off, with what of that the core has left to the store."""
        if not isinstance(event, e.CancelRequested):
            return event
        rows = await self._store.backlog_tasks(event.run, event.ids)
        return event._replace(backlog=tuple(rows))

    async def _with_known(self, submissions: Sequence[Submission]) -> list[e.Event]:
        """Each submission with what the store knows of the tasks it names."""
        keys: set[TaskKey] = {
            (s.run, id)
            for s in submissions
            for task in s.tasks
            for id in (task.id, *task.depends_on)
        }
        if not keys:
            return []
        titles = {run: await self._title(run) for run in dict.fromkeys(s.run for s in submissions)}
        # In a run that there is not, nothing is known.
        keys = {key for key in keys if titles[key[0]] is not None}
        known = await self._store.known_tasks(keys) if keys else {}
        return [e.SubmissionReceived(s, known, titles[s.run]) for s in submissions]

    async def _title(self, run: str) -> str | None:
        """Of a run that there is; it never changes."""
        if run not in self._titles and (row := await self._store.run(run)) is not None:
            if len(self._titles) >= _TITLES:
                self._titles.clear()
            self._titles[run] = row.title
        return self._titles.get(run)


def _settle(mail: Round, pile: Partial) -> None:
    by_consumer: dict[int, tuple[Consumer, list[Delivery]]] = {}
    for held in pile.held.values():
        _, deliveries = by_consumer.setdefault(id(held.consumer), (held.consumer, []))
        deliveries.append(held.delivery)
    mail.settled += by_consumer.values()
