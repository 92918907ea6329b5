"""The manager's loop. Each round: receive, decide, commit, send, acknowledge.

A message is acknowledged only after the decision on it is committed. An assignment that is lost on its way is
missing from the worker's heartbeat, and is resent. If several managers share a store, one of them leads; the
others stand by and serve HTTP. See docs/adr/0009-keep-leadership-in-a-row-with-an-epoch.md.
See docs/adr/0016-keep-deep-backlogs-in-the-store.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from uuid import uuid4

import structlog

from skillq import timings
from skillq.errors import TransportError, Unreachable
from skillq.messages import AttemptRef, Connect, Probe, Submission, WorkerProfile
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
from skillq_manager.leadership.leader import (
    renew_or_raise,
    renew_regularly,
    restore_state,
    run_until_first_ends,
)
from skillq_manager.leadership.probe import QueueProbe
from skillq_manager.leadership.queues import ManagerQueues
from skillq_manager.outbound.counters import Counters
from skillq_manager.outbound.decision_log import log_decisions
from skillq_manager.outbound.outbox import Outbox, OutgoingEvent
from skillq_manager.store import base
from skillq_manager.store.base import LeadershipLost, Store, StoreFailed

log = structlog.get_logger()

OnComplete = Callable[[str], Awaitable[None]]
_Deliveries = Sequence[tuple[Consumer, Sequence[Delivery]]]


class Manager:
    """Runs until stopped or, with `stop_when_done`, until all submitted tasks have ended.

    `new_state` makes a new core each time this manager starts to lead. `on_complete` is called with the name of
    a run when all its tasks have ended. For a run that was complete before this manager started, it is called
    when its tasks are submitted once more.
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
            counters=self.counters,
            on_message=self._on_message,
        )
        self._outbox = Outbox(
            transport, store, self._inbox.add_event, self._is_current, self._may_assign
        )
        self._pending_replies = PendingReplies()
        self._stopping = False
        self._leading = False
        self._standing_by = False
        self._draining = False  # all tasks have ended: new messages are for the next manager
        self._heartbeats_lost = False
        self._queues = ManagerQueues(transport, store, clock)
        self._has_completed = False
        self._completed_runs: set[str] = set()  # runs for which `on_complete` was called
        self.store = store
        self.state = new_state()

    # --- the interface for HTTP and the process

    def stop(self) -> None:
        """Stop after the present round."""
        self._stopping = True
        self._inbox.wake()

    async def submit(self, submission: Submission) -> c.AnswerSubmission:
        """Submit tasks without the broker; return the answer.

        Raises:
            Unreachable: this manager does not lead, or stops before it has decided.
        """
        answer = await self._request(
            submission.submission_id, lambda: self._inbox.add_submission(submission)
        )
        assert isinstance(answer, c.AnswerSubmission)  # noqa: S101 - an answer to a submission
        return answer

    async def cancel(self, run: str, ids: Sequence[str] | None, reason: str) -> tuple[TaskKey, ...]:
        """Cancel tasks of a run, all of them if `ids` is None; return those that had not ended.

        A very large run is cancelled in several rounds, so that other work goes on.

        Raises:
            Unreachable: as in `submit`.
        """
        cancelled: list[TaskKey] = []
        while True:
            request_id = uuid4().hex
            event = e.CancelRequested(request_id, run, None if ids is None else tuple(ids), reason)
            reply = await self._request(request_id, partial(self._inbox.add_event, event))
            assert isinstance(reply, c.AnswerRequest)  # noqa: S101
            cancelled += reply.done
            if ids is not None or len(reply.done) < base.BACKLOG_PAGE:
                return tuple(cancelled)

    async def retry(self, keys: Sequence[TaskKey]) -> c.AnswerRequest:
        """Retry ended tasks; the reply has those that are retried, and why the others are not.

        Raises:
            Unreachable: as in `submit`.
        """
        request_id = uuid4().hex
        reply = await self._request(request_id, lambda: self._inbox.add_retry(request_id, keys))
        assert isinstance(reply, c.AnswerRequest)  # noqa: S101
        return reply

    async def _request(
        self, request_id: str, submit_request: Callable[[], None]
    ) -> c.AnswerSubmission | c.AnswerRequest:
        if self._stopping or self._draining or not self._leading:
            raise Unreachable("this manager does not lead now; ask again in a moment")
        return await self._pending_replies.wait_for(request_id, submit_request)

    @property
    def is_leading(self) -> bool:
        """Return whether this manager decides now."""
        return self._leading

    @property
    def heartbeats_lost(self) -> bool:
        """Return whether this manager leads but receives no heartbeats, so that no lease ends."""
        return self._leading and self._heartbeats_lost

    @property
    def is_ready(self) -> bool:
        """Return whether this manager leads and its queues deliver, or stands by for the leader.

        It is not ready while it waits for queues that a manager with another store consumes.
        """
        if self._leading:
            return self._probe.is_ready
        return self._standing_by and self._transport.connected

    def reason(self, key: TaskKey) -> str | None:
        """Return why a task has its present status, or None if the task has ended."""
        return explain.reason(self.state, key, self._clock())

    # --- leading and standing by

    async def run(self) -> None:
        """Serve until stopped or done.

        Raises:
            UsageError: a manager with another store serves this broker, or another release declared its queues.
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
        """Lead until that ends, or pause on standby; pause, too, while the store fails."""
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
        # Nothing arrives on standby, but `stop` ends the wait.
        await self._inbox.take_received(timings.STAND_BY_SECONDS)

    async def _is_done(self) -> bool:
        return (
            self._stop_when_done
            and self._has_completed
            and self.state.is_idle
            and self._inbox.is_empty
            and not len(self._multipart)
        )

    async def _lead(self) -> None:
        """Lead until stopped, done, or another manager leads."""
        try:
            async with AsyncExitStack() as stack:
                consumers = await self._queues.consume_all(stack)
                # Restore only now: a state loaded before the wait for the queues would be out of date.
                await self._restore()
                await self._serve(consumers)
        except LeadershipLost as error:
            log.warning(Log.STEPPED_DOWN, reason=str(error))
        except TransportError as error:
            # Another manager may reach the broker.
            log.warning(Log.STEPPED_DOWN, reason=str(error))
            await self.store.release()
            await self._inbox.take_received(timings.STAND_BY_SECONDS)
        finally:
            self._queues.forget_consumers()

    async def _serve(self, consumers: Mapping[str, Consumer]) -> None:
        self._leading = True
        log.info(Log.LEADING, tasks=sum(self.state.tasks.open.values()))
        try:
            await run_until_first_ends(
                self._run_rounds(),
                self._probe.send_probes(),
                renew_regularly(self.store, self._transport, self._clock),
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
        """Continue with the tasks and workers of the last leader."""
        self._multipart.clear()
        self.state = self._new_state()
        self._heartbeats_lost = False
        await self._carry_out(await restore_state(self.state, self.store, self._clock))
        await self._refill()

    # --- the rounds

    async def _run_rounds(self) -> None:
        while not self._stopping:
            deadlines = (self.state.next_deadline(), self._multipart.next_deadline())
            deadline = min((at for at in deadlines if at is not None), default=None)
            timeout = None if deadline is None else max(0.0, deadline - self._clock())
            received = await self._inbox.take_received(timeout)
            if received:
                crash_points.crash_if_chosen("manager.received")
            await self._run_round(received)
            if await self._is_done():
                await self._stop_workers()
                return

    async def _run_round(self, received: Received) -> None:
        round = await self._triage.sort(received, draining=self._draining)
        if round.is_large:
            await renew_or_raise(self.store)  # nothing else runs during a long decision
        if self._heartbeats_lost != self._probe.heartbeats_lost:
            self._heartbeats_lost = not self._heartbeats_lost
            round.events.insert(
                0, e.HeartbeatsLost() if self._heartbeats_lost else e.HeartbeatsRecovered()
            )
            log.warning(Log.HEARTBEATS_LOST) if self._heartbeats_lost else log.info(
                Log.HEARTBEATS_RECOVERED
            )
        await self._carry_out(self.state.handle(round.events, self._clock()), round.to_acknowledge)
        await self._refill()
        for query in round.status_queries:
            self._outbox.reply(query.submission_id, partial(self._status_queries.answer, query))

    async def _refill(self) -> None:
        """Give the core the tasks of the backlog that it needs, before it handles other events.

        Each page is twice as large as the one before: the workers may have room for very many tasks, and no
        message is handled meanwhile.
        """
        times = 1
        while wanted := self.state.refills:
            requests = [request._replace(limit=request.limit * times) for request in wanted]
            events = [await self.store.backlog_page(request) for request in requests]
            await self._carry_out(self.state.handle(events, self._clock()))
            times *= 2

    async def _carry_out(
        self, commands: Sequence[c.Command], to_acknowledge: _Deliveries = ()
    ) -> None:
        """Commit the commands, send their messages, acknowledge deliveries, log and reply."""
        decisions = c.Decisions(commands)
        if commands:
            crash_points.crash_if_chosen("manager.decided")
            event_messages = await self._commit(decisions)
            crash_points.crash_if_chosen("manager.committed")
            await self._outbox.send(decisions, event_messages)
            crash_points.crash_if_chosen("manager.sent")
        for consumer, deliveries in to_acknowledge:
            await consumer.ack(deliveries)
            crash_points.crash_if_chosen("manager.acked")
        log_decisions(commands)
        self.counters.count_decisions(decisions)
        await self._notify_requesters(decisions)

    async def _commit(self, decisions: c.Decisions) -> Sequence[OutgoingEvent]:
        """Commit the commands; meanwhile, prepare and return their event messages."""
        committing = asyncio.create_task(self.store.commit(decisions.all), name="commit")
        try:
            # Two passes of the event loop: then the disk or the database server is at work.
            for _ in range(2):
                await asyncio.sleep(0)
            return self._outbox.event_messages(decisions)
        finally:
            await committing

    def _on_message(self, message: Inbound) -> None:
        if isinstance(message, Probe):
            self._probe.check_sender(message)
        if isinstance(message, Connect) and not message.ready:
            self._outbox.declare_worker_queue(message.worker.name)

    async def _notify_requesters(self, decisions: c.Decisions) -> None:
        """Give replies to the HTTP requests that wait for them; call `on_complete`."""
        for answer in decisions.of_kind(c.AnswerSubmission):
            self._status_queries.remember(answer)
            self._pending_replies.resolve(answer.submission.submission_id, answer)
        for reply in decisions.of_kind(c.AnswerRequest):
            self._pending_replies.resolve(reply.request, reply)
        for complete in decisions.of_kind(c.CompleteRun):
            self._has_completed = True
            if not complete.was_complete or complete.run not in self._completed_runs:
                self._completed_runs.add(complete.run)
                await self._on_complete(complete.run)

    def _is_current(self, ref: AttemptRef, worker: WorkerProfile) -> bool:
        if not self._queues.are_consumed:
            return False  # another manager leads, or will lead
        return self.state.is_current(ref, worker.name, worker.incarnation)

    def _may_assign(self) -> bool:
        """Return whether no other manager can have assigned the same attempts."""
        return self._queues.are_exclusively_ours

    async def _stop_workers(self) -> None:
        """Ask every worker to drain and leave, and wait until all have left."""
        self._draining = True
        workers = self.state.workers.workers.values()
        await self._outbox.stop_workers((w.incarnation for w in workers), "all tasks are done")
        give_up_at = self._clock() + timings.STOP_SECONDS
        while self.state.workers.workers and self._clock() < give_up_at:
            await self._run_round(await self._inbox.take_received(give_up_at - self._clock()))
