"""The worker: accept assignments, run and report attempts, send heartbeats, drain.

The worker acknowledges an assignment when it has accepted the assignment, not when the attempt has
ended. From then on the worker's heartbeats hold the lease on the attempt, and the worker keeps the
result until the broker has confirmed it.
See docs/adr/0003-acknowledge-accepted-assignments.md and docs/adr/0005-number-attempts-per-store.md.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

import structlog

from skillq import timings, topology
from skillq.errors import MalformedMessage, QueueInUse, TransportError
from skillq.messages import (
    Assignments,
    AttemptRef,
    Cancel,
    Disconnect,
    Heartbeat,
    Message,
    Outcome,
    Stop,
    TaskAssignment,
    WorkerProfile,
)
from skillq.runtime import crash_points
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Consumer, Delivery, Outgoing, Transport, dead_letter, read_message
from skillq_worker.execution.attempt import AttemptContext, AttemptRun
from skillq_worker.execution.executor import Executor
from skillq_worker.execution.slots import Attempt, AttemptSlots
from skillq_worker.lease import OwnLease, heartbeat_messages
from skillq_worker.queue_binding import QueueBinding
from skillq_worker.recent_results import RecentResults
from skillq_worker.reporter import Reporter, publish_until_confirmed
from skillq_worker.results import Result, make_result

# How many tasks, besides those with a held attempt, a worker remembers to recognise a repeated assignment.
_MAX_KNOWN_TASKS = 10_000
_LEAVING_REASON = "the worker is leaving"

TaskKey = tuple[str, str]

log = structlog.get_logger()


class Worker:
    """Runs attempts of one worker until it is stopped.

    `grace` is the time in seconds that running attempts get to finish in a drain. With
    `cancel_on_lost_lease`, the worker cancels running attempts when the manager may have given them
    to other workers.
    """

    def __init__(
        self,
        transport: Transport,
        profile: WorkerProfile,
        executor: Executor,
        *,
        clock: Clock,
        grace: float,
        cancel_on_lost_lease: bool = False,
    ) -> None:
        self._transport = transport
        self._profile = profile
        self._clock = clock
        self._grace = grace
        # Accepted attempts whose result is not confirmed. The value is the tuple itself: its identity
        # tells it from an equal tuple of another store.
        self._held_attempts: dict[Attempt, Attempt] = {}
        # The number of the newest attempt of each task.
        self._newest_attempts: OrderedDict[TaskKey, int] = OrderedDict()
        self._recent_results = RecentResults()
        self._cancel_on_lost_lease = cancel_on_lost_lease
        self._lease = OwnLease(profile.lease, clock)
        self._slots = AttemptSlots(profile.slots, self._new_run, self._lease.is_valid)
        self._context = AttemptContext(
            executor,
            clock,
            self._slots.take_waiting,
            self._on_attempt_started,
            self._on_attempt_ended,
        )
        self._reporter = Reporter(
            transport, profile, self._on_results_confirmed, self._slots.none_waiting, clock
        )
        self._stop_requested = asyncio.Event()
        self._skip_grace = asyncio.Event()  # set: running attempts get no grace
        self._queue_binding = QueueBinding(transport, profile, clock)
        # Bound once: binding takes longer than a debug event that is not logged.
        self._log = log.bind()

    @property
    def is_ready(self) -> bool:
        """Whether the worker consumes its queue, and the broker is connected."""
        return self._queue_binding.is_attached and self._transport.connected

    @property
    def is_draining(self) -> bool:
        """Whether the worker takes nothing new, because it leaves."""
        return self._stop_requested.is_set()

    def stop(self, *, now: bool = False) -> None:
        """Start a drain; with `now`, running attempts get no grace."""
        if now:
            self._skip_grace.set()
        self._stop_requested.set()

    async def run(self) -> None:
        """Run until `stop` is called or a Stop message arrives, and drain.

        Raises:
            UsageError: another worker of this name is connected.
        """
        stop_task = asyncio.create_task(self._stop_requested.wait(), name="stop")
        attach_task = asyncio.create_task(self._attach(), name="attach")
        try:
            await asyncio.wait([stop_task, attach_task], return_when=asyncio.FIRST_COMPLETED)
            if attach_task.done():
                attach_task.result()
                await self._work(stop_task)
        finally:
            await _cancel_and_wait([stop_task, attach_task])
            await self._queue_binding.detach()

    async def _work(self, stop_task: asyncio.Task[bool]) -> None:
        background_tasks = [
            asyncio.create_task(self._receive(), name="receive"),
            asyncio.create_task(self._queue_binding.watch_queue(), name="watch queue"),
            asyncio.create_task(self._reporter.run(), name="report"),
            asyncio.create_task(self._send_heartbeats(), name="heartbeat"),
            asyncio.create_task(
                self._lease.watch(self._on_fenced, self._on_lease_lost), name="fence"
            ),
        ]
        try:
            await asyncio.wait([stop_task, *background_tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in background_tasks:
                if task.done():
                    task.result()
            await self._drain()
        finally:
            await _cancel_and_wait(background_tasks)
            await self._slots.close()

    # --- arriving and leaving

    async def _attach(self) -> None:
        await self._queue_binding.attach()
        self._on_heartbeat_confirmed(self._clock())

    async def _drain(self) -> None:
        self._return_unstarted()
        log.info(Log.DRAINING, running=self._slots.running, grace=self._grace)
        await self._finish_running()
        await self._slots.close()
        try:
            async with asyncio.timeout(
                timings.FAST_LEAVE_SECONDS if self._skip_grace.is_set() else timings.LEAVE_SECONDS
            ):
                await self._reporter.wait_until_flushed()
                message = Disconnect(
                    worker=self._profile.name,
                    incarnation=self._profile.incarnation,
                    reason="stopped",
                )
                key = f"disconnect.{self._profile.name}"
                await publish_until_confirmed(self._transport, key, Outgoing.from_message(message))
        except TimeoutError:
            log.warning(
                Log.PUBLISH_NOT_CONFIRMED, key="disconnect", error="no answer from the broker"
            )

    async def _finish_running(self) -> None:
        """Wait for running attempts, until the grace is over or `stop(now=True)` is called."""
        finished = asyncio.create_task(self._slots.wait_until_idle(), name="finished")
        skip_grace = asyncio.create_task(self._skip_grace.wait(), name="skip grace")
        try:
            await asyncio.wait(
                [finished, skip_grace], timeout=self._grace, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for waiter in (finished, skip_grace):
                waiter.cancel()
            await asyncio.gather(finished, skip_grace, return_exceptions=True)

    def _return_unstarted(self) -> None:
        for attempt in self._slots.remove_all_waiting():
            self._reporter.report_result(
                make_result(attempt, Outcome.RETURNED, error=_LEAVING_REASON)
            )

    # --- heartbeats

    async def _send_heartbeats(self) -> None:
        key = f"heartbeat.{self._profile.name}"
        while True:
            await self._wait_for_next_heartbeat()
            sent_at = self._clock()
            try:
                for part in self._heartbeat_messages():
                    await self._transport.publish(topology.REPORTS, key, part)
            except TransportError as error:
                log.warning(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))
            else:
                self._on_heartbeat_confirmed(sent_at)

    def _on_heartbeat_confirmed(self, sent_at: float) -> None:
        self._lease.on_heartbeat_confirmed(sent_at)
        self._slots.fill()

    def _heartbeat_messages(self) -> list[Outgoing]:
        refs = [
            AttemptRef(run=run, id=id, attempt=attempt) for run, id, attempt in self._held_attempts
        ]
        common = Heartbeat(
            worker=self._profile,
            store=self._reporter.store,
            holds=(),
            free_slots=self._slots.free,
            draining=self.is_draining,
        )
        return heartbeat_messages(common, refs)

    def _on_fenced(self, silence: float) -> None:
        log.warning(Log.FENCED, silence=round(silence, 1), running=self._slots.running)

    def _on_lease_lost(self) -> None:
        if self._cancel_on_lost_lease:
            self._cancel_attempts(list(self._held_attempts))

    async def _wait_for_next_heartbeat(self) -> None:
        seconds = self._profile.lease.heartbeat * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        if self.is_draining:
            await asyncio.sleep(seconds)
            return
        # A drain is reported at once: else the manager would assign returned attempts to this worker again.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_requested.wait()

    # --- commands

    async def _receive(self) -> None:
        while True:
            if (consumer := self._queue_binding.consumer) is None:
                await self._attach()
                continue
            try:
                deliveries = await consumer.batch()
            except QueueInUse:
                # By an old connection of this worker that the broker still keeps, or by a worker of this name.
                await self._queue_binding.detach()
                continue
            crash_points.crash_if_chosen("worker.received")
            accepted = [d for d in deliveries if await self._handle_delivery(consumer, d)]
            crash_points.crash_if_chosen("worker.accepted")
            await consumer.ack(accepted)
            crash_points.crash_if_chosen("worker.acked")

    async def _handle_delivery(self, consumer: Consumer, delivery: Delivery) -> bool:
        """Handle a message; return whether it needs an acknowledgement.

        An unreadable message needs none: the worker has moved it to the dead-letter queue, or requeued it.
        """
        try:
            self._handle_message(read_message(delivery))
        except MalformedMessage as error:
            log.warning(Log.MESSAGE_UNREADABLE, queue=delivery.queue, reason=str(error))
            try:
                await dead_letter(self._transport, consumer, delivery, str(error))
            except TransportError:
                await consumer.nack(delivery, requeue=True)
            return False
        return True

    def _handle_message(self, message: Message) -> None:
        match message:
            case Assignments():
                if message.incarnation == self._profile.incarnation:
                    self._change_store(message.store)
                    for task in message.tasks:
                        self._accept_assignment(task)
            case Cancel():
                is_addressed_here = message.incarnation == self._profile.incarnation
                if is_addressed_here and message.store == self._reporter.store:
                    attempts = [_to_attempt(ref) for ref in message.attempts]
                    self._return_attempts(
                        attempts
                    ) if message.waiting_only else self._cancel_attempts(attempts)
            case Stop():
                if self._profile.incarnation in message.incarnations:
                    self.stop(now=message.mode == "now")
            case _:
                raise MalformedMessage(
                    f"a {message.type} message does not belong in a worker's queue"
                )

    def _change_store(self, store: str) -> None:
        """Forget all attempts if the store is another one.

        Attempts are numbered per store: a manager that lost its store starts again at 1.
        """
        if store == self._reporter.store:
            return
        self._cancel_attempts(list(self._held_attempts))
        self._newest_attempts.clear()
        self._recent_results.clear()
        self._reporter.change_store(store)

    def _accept_assignment(self, task: TaskAssignment) -> None:
        key = (task.run, task.id)
        attempt = _to_attempt(task)
        if (newest_number := self._newest_attempts.get(key, 0)) >= task.attempt:
            self._resend_result(attempt)  # the assignment has arrived twice, or after a newer one
            return
        self._newest_attempts[key] = task.attempt
        if newest_number:
            self._newest_attempts.move_to_end(key)
        self._held_attempts[attempt] = attempt
        while len(self._newest_attempts) > _MAX_KNOWN_TASKS + len(self._held_attempts):
            self._newest_attempts.popitem(last=False)
        if self.is_draining:
            self._reporter.report_result(
                make_result(attempt, Outcome.RETURNED, error=_LEAVING_REASON)
            )
        else:
            self._slots.add_attempt(attempt, task)

    def _resend_result(self, attempt: Attempt) -> None:
        """Resend the result of an ended attempt; if no result is kept, report it as lost.

        The manager assigns an attempt again only if it has not received the result.
        """
        run, id, number = attempt
        if attempt in self._held_attempts or self._newest_attempts.get((run, id)) != number:
            return
        known_result = self._recent_results.get(attempt)
        reason = "its result was lost on the way"
        self._reporter.report_result(
            known_result or make_result(attempt, Outcome.LOST, error=reason)
        )

    # --- attempts

    def _new_run(self, attempt: Attempt, task: TaskAssignment) -> AttemptRun:
        """Return a run of an attempt that gets a slot now; called on any thread."""
        crash_points.crash_if_chosen("worker.started")
        return AttemptRun(self._context, attempt, task)

    def _on_attempt_started(self, attempt_run: AttemptRun) -> None:
        run, id, number = attempt_run.attempt
        if self._held_attempts.get(attempt_run.attempt) is not attempt_run.attempt:
            log.info(Log.ATTEMPT_CANCELLED, task=(run, id), attempt=number)
            attempt_run.cancel()  # it was cancelled before the start on the handler loop was reported
            return
        self._reporter.report_start(attempt_run.attempt, attempt_run.started_at)
        self._log.debug(Log.ATTEMPT_STARTED, task=(run, id), attempt=number)

    def _on_attempt_ended(self, attempt_run: AttemptRun, attempt_result: Result | None) -> None:
        if attempt_result is not None:
            run, id, _ = attempt_result.attempt
            crash_points.crash_if_chosen("worker.finished")
            self._log.debug(Log.ATTEMPT_ENDED, task=(run, id), outcome=attempt_result.outcome)
            self._reporter.report_result(attempt_result)
        self._slots.on_attempt_ended(attempt_run)

    def _cancel_attempts(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            self._held_attempts.pop(attempt, None)
            if self._slots.cancel_attempt(attempt):
                run, id, number = attempt
                log.info(Log.ATTEMPT_CANCELLED, task=(run, id), attempt=number)

    def _return_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Return attempts that have not started, so that other workers can run them."""
        for attempt in attempts:
            if self._slots.remove_waiting(attempt):
                reason = "another worker is idle"
                self._reporter.report_result(make_result(attempt, Outcome.RETURNED, error=reason))

    def _on_results_confirmed(self, results: Sequence[Result]) -> None:
        for attempt_result in results:
            self._held_attempts.pop(attempt_result.attempt, None)
            self._recent_results.add_result(attempt_result)


def _to_attempt(ref: AttemptRef) -> Attempt:
    return ref.run, ref.id, ref.attempt


async def _cancel_and_wait(
    tasks: Sequence[asyncio.Task[None] | asyncio.Task[bool]],
) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
