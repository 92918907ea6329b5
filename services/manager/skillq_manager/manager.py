"""The manager's shell: take all that has arrived, decide once, commit once, send, acknowledge once.

What has been acknowledged has been committed. What is lost on the way to a worker is noticed by
comparing its heartbeat with what it should hold, and sent again.

Of several managers on one store, one leads; the others stand by and answer questions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from uuid import uuid4

import structlog

from skillq import timings
from skillq.errors import TransportError, Unreachable, UsageError
from skillq.messages import AttemptRef, Connect, Probe, Submission, WorkerEventKind, WorkerProfile
from skillq.runtime import crash_points
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Consumer, Delivery, Transport
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core import explain
from skillq_manager.core.model import TaskKey
from skillq_manager.core.state import State
from skillq_manager.inbound.inbox import Inbound, Inbox, Received
from skillq_manager.inbound.multipart import MultipartBuffer
from skillq_manager.inbound.pending_replies import PendingReplies
from skillq_manager.inbound.status_queries import StatusQueries
from skillq_manager.inbound.triage import Triage
from skillq_manager.leadership.probe import QueueProbe
from skillq_manager.leadership.queues import ManagerQueues, renew_or_raise
from skillq_manager.outbound.counters import Counters
from skillq_manager.outbound.decision_log import log_decisions
from skillq_manager.outbound.outbox import Outbox, OutgoingEvent
from skillq_manager.store import base
from skillq_manager.store.base import LeadershipLost, Store, StoreFailed

log = structlog.get_logger()

OnComplete = Callable[[str], Awaitable[None]]
_Settled = Sequence[tuple[Consumer, Sequence[Delivery]]]


class Manager:
    """Runs until stopped, or (`stop_when_done`) until all that was submitted has ended.

    `new_state` makes the core anew whenever this manager begins to lead. `on_complete` is called with
    the name of a run whenever all its tasks have ended; of one that had ended before this manager
    began, when somebody submits it again.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        new_state: Callable[[], State],
        *,
        clock: Clock,
        stop_when_done: bool = False,
        on_complete: OnComplete,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._new_state = new_state
        self._stop_when_done = stop_when_done
        self._on_complete = on_complete
        self._probe = QueueProbe(transport, store.id, clock)
        self._inbox = Inbox(self._probe.record_delivery)
        self.counters = Counters()
        self._multipart = MultipartBuffer(clock)
        self._status_queries = StatusQueries(store, store.id)
        self._triage = Triage(
            transport,
            store,
            self._multipart,
            self._status_queries,
            tally=self.counters,
            notice=self._on_message,
        )
        self._outbox = Outbox(
            transport, store, self._inbox.add_event, self._is_current, self._may_assign
        )
        self._pending_replies = PendingReplies()
        self._stopping = False
        self._leading = False
        self._standing_by = False
        self._leaving = False  # all is done: what comes now is for the next manager
        self._heartbeats_lost = False
        self._queues = ManagerQueues(transport, store, clock)
        self._has_completed = False
        self._summarised: set[str] = set()  # runs that `on_complete` has heard of
        self.store = store
        self.state = new_state()

    # --- what the web and the process ask of it

    def stop(self) -> None:
        """Leave after the round that is going on."""
        self._stopping = True
        self._inbox.wake()

    async def submit(self, submission: Submission) -> c.AnswerSubmission:
        """Take in a submission that came by another way than the broker.

        Raises:
            Unreachable: this manager stands by, or leaves before it could decide.
        """
        answer = await self._request(
            submission.submission_id, lambda: self._inbox.add_submission(submission)
        )
        assert isinstance(answer, c.AnswerSubmission)  # noqa: S101 - an answer to a submission
        return answer

    async def cancel(self, run: str, ids: Sequence[str] | None, reason: str) -> tuple[TaskKey, ...]:
        """Call tasks off, all of the run where no ids are given; return those that had not ended.

        A very large run is called off a part at a time, so that other work goes on.

        Raises:
            Unreachable: as `submit`.
        """
        done: list[TaskKey] = []
        while True:
            request = uuid4().hex
            event = e.CancelRequested(request, run, None if ids is None else tuple(ids), reason)
            reply = await self._request(request, partial(self._inbox.add_event, event))
            assert isinstance(reply, c.AnswerRequest)  # noqa: S101
            done += reply.done
            if ids is not None or len(reply.done) < base.BACKLOG_PAGE:
                return tuple(done)

    async def retry(self, keys: Sequence[TaskKey]) -> c.AnswerRequest:
        """Send tasks again that have ended; the reply says which, and why not the others.

        Raises:
            Unreachable: as `submit`.
        """
        request = uuid4().hex
        reply = await self._request(request, lambda: self._inbox.add_retry(request, keys))
        assert isinstance(reply, c.AnswerRequest)  # noqa: S101
        return reply

    async def _request(
        self, request: str, put: Callable[[], None]
    ) -> c.AnswerSubmission | c.AnswerRequest:
        if self._stopping or self._leaving or not self._leading:
            raise Unreachable("this manager does not lead now; ask again in a moment")
        return await self._pending_replies.wait_for(request, put)

    @property
    def is_leading(self) -> bool:
        return self._leading

    @property
    def heartbeats_lost(self) -> bool:
        """It leads, and cannot hear workers: it judges none by its silence."""
        return self._leading and self._heartbeats_lost

    @property
    def is_ready(self) -> bool:
        """It leads and its consumers are proven live, or it stands by for another one that does.

        Not while it waits for queues that a manager has with which it shares no store.
        """
        if self._leading:
            return self._probe.is_ready
        return self._standing_by and self._transport.connected

    def reason(self, key: TaskKey) -> str | None:
        """Why a task that has not ended is where it is."""
        return explain.reason(self.state, key, self._clock())

    # --- leading and standing by

    async def run(self) -> None:
        """Serve, until stopped.

        Raises:
            UsageError: another manager serves this broker, or its queues were declared by another release.
        """
        try:
            while not self._stopping and not await self._is_done():
                await self._lead_or_stand_by()
        finally:
            self._leading = self._standing_by = False
            self._pending_replies.fail_all("the manager is stopping; ask again")
            await self._outbox.flush(timeout=timings.STOP_SECONDS)
            with suppress(StoreFailed):
                await self.store.release()

    async def _lead_or_stand_by(self) -> None:
        """One turn of either, until something changes; while the store is away, nothing can be decided."""
        try:
            self._standing_by = not await self.store.acquire()
            if self._standing_by:
                log.debug(Log.STANDING_BY)
                await self._pause()
            else:
                await self._lead()
        except StoreFailed as error:
            self._standing_by = False
            log.warning(Log.STORE_FAILED, reason=str(error))
            await self._pause()

    async def _pause(self) -> None:
        await self._inbox.take_received(
            timings.STAND_BY_SECONDS
        )  # nothing arrives; a stop wakes it

    async def _is_done(self) -> bool:
        return (
            self._stop_when_done
            and self._has_completed
            and self.state.is_idle
            and self._inbox.is_empty
            and not len(self._multipart)
        )

    async def _lead(self) -> None:
        """Lead until stopped, done, or another one does."""
        try:
            async with AsyncExitStack() as stack:
                consumers = await self._queues.consume_all(stack)
                # Only now: who had to wait for the queues would remember what is long over.
                await self._restore()
                await self._serve(consumers)
        except LeadershipLost as error:
            log.warning(Log.STEPPED_DOWN, reason=str(error))
        except TransportError as error:
            # Another one may reach the broker.
            log.warning(Log.STEPPED_DOWN, reason=str(error))
            await self.store.release()
            await self._inbox.take_received(timings.STAND_BY_SECONDS)
        finally:
            self._queues.forget()

    async def _serve(self, consumers: Mapping[str, Consumer]) -> None:
        self._leading = True
        log.info(Log.LEADING, tasks=sum(self.state.tasks.open.values()))
        try:
            await _run_until_first_ends(
                self._loop(),
                self._probe.probe(),
                self._renew(),
                *(
                    self._inbox.receive_from(queue, consumer)
                    for queue, consumer in consumers.items()
                ),
            )
        finally:
            self._leading = False
            self._inbox.clear()
            self._pending_replies.fail_all("another manager leads now; ask again")

    async def _restore(self) -> None:
        """Begin where the last leader left off."""
        self._multipart.clear()
        self.state = self._new_state()
        self._heartbeats_lost = False
        there = {WorkerEventKind.CONNECTED, WorkerEventKind.SUSPECT}
        workers = [row.profile for row in await self.store.workers() if row.status in there]
        self.state.begin_restore(workers, await self.store.last_seq(), self._clock())
        async for rows in self.store.load(shelved=not self.state.keeps_backlog):
            self.state.restore(rows)
        await self._carry_out(await self._end_restore())
        await self._refill()

    async def _end_restore(self) -> list[c.Command]:
        shelf = await self.store.backlog_summary() if self.state.keeps_backlog else None
        if shelf is None or not shelf.needs:
            return self.state.end_restore()
        return self.state.end_restore(
            shelf, await self.store.known_tasks(self.state.unresolved_dependencies())
        )

    async def _renew(self) -> None:
        connected_at = self._clock()
        while True:
            await asyncio.sleep(timings.RENEW_SECONDS)
            await renew_or_raise(self.store)
            if self._transport.connected or not self.store.epoch:
                connected_at = self._clock()
            elif self._clock() - connected_at > timings.BROKER_LOST_SECONDS:
                raise TransportError("the broker is out of reach")

    # --- the loop

    async def _loop(self) -> None:
        while not self._stopping:
            deadlines = (self.state.next_deadline(), self._multipart.next_deadline())
            deadline = min((at for at in deadlines if at is not None), default=None)
            timeout = None if deadline is None else max(0.0, deadline - self._clock())
            intake = await self._inbox.take_received(timeout)
            if intake:
                crash_points.crash_if_chosen("manager.received")
            await self._round(intake)
            if await self._is_done():
                await self._stop_workers()
                return

    async def _round(self, intake: Received) -> None:
        mail = await self._triage.sort(intake, leaving=self._leaving)
        if mail.is_large:
            await renew_or_raise(self.store)  # nothing else is done while that is decided
        if self._heartbeats_lost != self._probe.heartbeats_lost:
            self._heartbeats_lost = not self._heartbeats_lost
            mail.events.insert(
                0, e.HeartbeatsLost() if self._heartbeats_lost else e.HeartbeatsRecovered()
            )
            log.warning(Log.HEARTBEATS_LOST) if self._heartbeats_lost else log.info(
                Log.HEARTBEATS_RECOVERED
            )
        await self._carry_out(self.state.handle(mail.events, self._clock()), mail.settled)
        await self._refill()
        for inquiry in mail.status_queries:
            self._outbox.reply(inquiry.submission_id, partial(self._status_queries.answer, inquiry))

    async def _refill(self) -> None:
        """Hand over what the core wants of what the store has, before it hears of anything else.

        Each time more of it: workers that had room for all of that may have room for very many, and nobody is
        heard meanwhile.
        """
        times = 1
        while wanted := self.state.refills:
            more = [one._replace(limit=one.limit * times) for one in wanted]
            events = [await self.store.backlog_page(one) for one in more]
            await self._carry_out(self.state.handle(events, self._clock()))
            times *= 2

    async def _carry_out(self, commands: Sequence[c.Command], settled: _Settled = ()) -> None:
        """Write, then send, then acknowledge what it came from, then say so."""
        decided = c.Decisions(commands)
        if commands:
            crash_points.crash_if_chosen("manager.decided")
            news = await self._commit(decided)
            crash_points.crash_if_chosen("manager.committed")
            await self._outbox.send(decided, news)
            crash_points.crash_if_chosen("manager.sent")
        for consumer, deliveries in settled:
            await consumer.ack(deliveries)
            crash_points.crash_if_chosen("manager.acked")
        log_decisions(commands)
        self.counters.count_decisions(decided)
        await self._notify_requesters(decided)

    async def _commit(self, decided: c.Decisions) -> Sequence[OutgoingEvent]:
        """Write; meanwhile, prepare what is to be told of it."""
        committing = asyncio.create_task(self.store.commit(decided.all), name="commit")
        try:
            for _ in range(2):  # until the disk is at work, or the database server
                await asyncio.sleep(0)
            return self._outbox.event_messages(decided)
        finally:
            await committing

    def _on_message(self, message: Inbound) -> None:
        if isinstance(message, Probe):
            self._check_probe(message)
        if isinstance(message, Connect) and not message.ready:
            self._outbox.declare(message.worker.name)

    def _check_probe(self, probe: Probe) -> None:
        """Leave if another manager has our queues, and we do not have the one that only one can have."""
        if probe.store not in {"", self.store.id} and self._probe.heartbeats_lost:
            raise UsageError(
                "another manager, with another store, serves this broker; stop it, or use another vhost"
            )

    async def _notify_requesters(self, decided: c.Decisions) -> None:
        """Say what has been decided: to whoever asked, to `on_complete`."""
        for answer in decided.of_kind(c.AnswerSubmission):
            self._status_queries.remember(answer)
            self._pending_replies.resolve(answer.submission.submission_id, answer)
        for reply in decided.of_kind(c.AnswerRequest):
            self._pending_replies.resolve(reply.request, reply)
        for complete in decided.of_kind(c.CompleteRun):
            self._has_completed = True
            if not complete.was_complete or complete.run not in self._summarised:
                self._summarised.add(complete.run)
                await self._on_complete(complete.run)

    def _is_current(self, ref: AttemptRef, worker: WorkerProfile) -> bool:
        if not self._queues.are_taken:
            return False  # another one leads, or will
        return self.state.is_current(ref, worker.name, worker.incarnation)

    def _may_assign(self) -> bool:
        """Not while another manager may have taken our queues: it may have given the same attempts out."""
        return self._queues.are_ours

    async def _stop_workers(self) -> None:
        """Send every worker home, and wait until they have gone."""
        self._leaving = True
        workers = self.state.workers.workers.values()
        await self._outbox.stop_all((w.incarnation for w in workers), "all tasks are done")
        give_up_at = self._clock() + timings.STOP_SECONDS
        while self.state.workers.workers and self._clock() < give_up_at:
            await self._round(await self._inbox.take_received(give_up_at - self._clock()))


async def _run_until_first_ends(*work: Awaitable[None]) -> None:
    """Run everything until one part ends, then cancel the rest; raise the error of the part that ended."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
