"""The worker's shell: accept, run, report; say that it lives; leave in order.

An assignment is acknowledged when it has been accepted, not when the work is done: from then on the
worker's heartbeats hold the lease, and a result is kept until the broker has confirmed it.
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
from skillq_worker.lease import OwnLease, heartbeats
from skillq_worker.queue_binding import QueueBinding
from skillq_worker.recent_results import RecentResults
from skillq_worker.reporter import Reporter, publish_until_confirmed
from skillq_worker.results import Result, result

_REMEMBERED = (
    10_000  # how many attempts, beside those it has, are known again when they are sent twice
)
_LEAVING = "the worker is leaving"

Key = tuple[str, str]

log = structlog.get_logger()


class Worker:
    """Runs until it is told to stop. `grace` is how many seconds running attempts get to finish then.

    `abort_on_lost_lease` gives up what runs when the manager must believe that this worker is dead.
    """

    def __init__(
        self,
        transport: Transport,
        profile: WorkerProfile,
        executor: Executor,
        *,
        clock: Clock,
        grace: float,
        abort_on_lost_lease: bool = False,
    ) -> None:
        self._transport = transport
        self._profile = profile
        self._clock = clock
        self._grace = grace
        # Accepted, and its result not confirmed; by name, as that object: another store may give the same name.
        self._held: dict[Attempt, Attempt] = {}
        self._seen: OrderedDict[Key, int] = OrderedDict()  # the newest attempt of each task
        self._memory = RecentResults()
        self._abort_on_lost_lease = abort_on_lost_lease
        self._trust = OwnLease(profile.lease, clock)
        self._slots = AttemptSlots(profile.slots, self._new_run, self._trust.is_good)
        self._shop = AttemptContext(
            executor,
            clock,
            self._slots.take_waiting,
            self._on_attempt_started,
            self._on_attempt_over,
        )
        self._reporter = Reporter(transport, profile, self._forget, self._slots.none_waiting, clock)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()  # no grace for what is running
        self._attachment = QueueBinding(transport, profile, clock)
        self._log = log.bind()  # once: to bind takes longer than not to log

    @property
    def is_ready(self) -> bool:
        """It consumes its queue, and the broker is connected."""
        return self._attachment.is_attached and self._transport.connected

    @property
    def is_draining(self) -> bool:
        return self._stop.is_set()

    def stop(self, *, now: bool = False) -> None:
        """Take nothing new and leave: after what is running, or `now`."""
        if now:
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            UsageError: another worker of this name is connected.
        """
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        attaching = asyncio.create_task(self._attach(), name="attach")
        try:
            await asyncio.wait([stopped, attaching], return_when=asyncio.FIRST_COMPLETED)
            if attaching.done():
                attaching.result()
                await self._work(stopped)
        finally:
            await _cancel([stopped, attaching])
            await self._attachment.detach()

    async def _work(self, stopped: asyncio.Task[bool]) -> None:
        background = [
            asyncio.create_task(self._receive(), name="receive"),
            asyncio.create_task(self._attachment.attend(), name="attend"),
            asyncio.create_task(self._reporter.run(), name="report"),
            asyncio.create_task(self._heartbeat(), name="heartbeat"),
            asyncio.create_task(self._trust.watch(self._fenced, self._on_lease_lost), name="fence"),
        ]
        try:
            await asyncio.wait([stopped, *background], return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done():
                    task.result()
            await self._drain()
        finally:
            await _cancel(background)
            await self._slots.close()

    # --- arriving and leaving

    async def _attach(self) -> None:
        await self._attachment.attach()
        self._confirmed(self._clock())

    async def _drain(self) -> None:
        self._return_unstarted()
        log.info(Log.DRAINING, running=self._slots.running, grace=self._grace)
        await self._finish()
        await self._slots.close()
        try:
            async with asyncio.timeout(
                timings.FAST_LEAVE_SECONDS if self._hurry.is_set() else timings.LEAVE_SECONDS
            ):
                await self._reporter.flushed()
                goodbye = Disconnect(
                    worker=self._profile.name,
                    incarnation=self._profile.incarnation,
                    reason="stopped",
                )
                key = f"disconnect.{self._profile.name}"
                await publish_until_confirmed(self._transport, key, Outgoing.from_message(goodbye))
        except TimeoutError:
            log.warning(
                Log.PUBLISH_NOT_CONFIRMED, key="disconnect", error="no answer from the broker"
            )

    async def _finish(self) -> None:
        """Let what is running finish: for as long as the grace, or until we are told to hurry."""
        finished = asyncio.create_task(self._slots.wait_until_idle(), name="finished")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        try:
            await asyncio.wait(
                [finished, hurry], timeout=self._grace, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for waiting in (finished, hurry):
                waiting.cancel()
            await asyncio.gather(finished, hurry, return_exceptions=True)

    def _return_unstarted(self) -> None:
        for one in self._slots.take_back_all():
            self._reporter.report_result(result(one, Outcome.RETURNED, error=_LEAVING))

    # --- heartbeats

    async def _heartbeat(self) -> None:
        key = f"heartbeat.{self._profile.name}"
        while True:
            await self._until_next_heartbeat()
            sent_at = self._clock()
            try:
                for part in self._heartbeat_parts():
                    await self._transport.publish(topology.REPORTS, key, part)
            except TransportError as error:
                log.warning(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))
            else:
                self._confirmed(sent_at)

    def _confirmed(self, sent_at: float) -> None:
        self._trust.on_heartbeat_confirmed(sent_at)
        self._slots.fill()

    def _heartbeat_parts(self) -> list[Outgoing]:
        refs = [AttemptRef(run=run, id=id, attempt=number) for run, id, number in self._held]
        common = Heartbeat(
            worker=self._profile,
            store=self._reporter.store,
            holds=(),
            free_slots=self._slots.free,
            draining=self.is_draining,
        )
        return heartbeats(common, refs)

    def _fenced(self, silence: float) -> None:
        log.warning(Log.FENCED, silence=round(silence, 1), running=self._slots.running)

    def _on_lease_lost(self) -> None:
        if self._abort_on_lost_lease:
            self._cancel_attempt(list(self._held))

    async def _until_next_heartbeat(self) -> None:
        seconds = self._profile.lease.heartbeat * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        if self.is_draining:
            await asyncio.sleep(seconds)
            return
        # That it drains is said at once: what it hands back would be offered to it again.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    # --- commands

    async def _receive(self) -> None:
        while True:
            if (consumer := self._attachment.consumer) is None:
                await self._attach()
                continue
            try:
                deliveries = await consumer.batch()
            except QueueInUse:
                # By our own connection, which the broker does not know to be dead, or by a namesake.
                await self._attachment.detach()
                continue
            crash_points.crash_if_chosen("worker.received")
            handled = [d for d in deliveries if await self._handle(consumer, d)]
            crash_points.crash_if_chosen("worker.accepted")
            await consumer.ack(handled)
            crash_points.crash_if_chosen("worker.acked")

    async def _handle(self, consumer: Consumer, delivery: Delivery) -> bool:
        """Obey; False where the delivery was parked and needs no acknowledgement."""
        try:
            self._on_order(read_message(delivery))
        except MalformedMessage as error:
            log.warning(Log.MESSAGE_UNREADABLE, queue=delivery.queue, reason=str(error))
            try:
                await dead_letter(self._transport, consumer, delivery, str(error))
            except TransportError:
                await consumer.nack(delivery, requeue=True)
            return False
        return True

    def _on_order(self, message: Message) -> None:
        match message:
            case Assignments():
                if message.incarnation == self._profile.incarnation:
                    self._serve(message.store)
                    for task in message.tasks:
                        self._accept(task)
            case Cancel():
                mine = message.incarnation == self._profile.incarnation
                if mine and message.store == self._reporter.store:
                    attempts = [_name(ref) for ref in message.attempts]
                    self._return_attempts(
                        attempts
                    ) if message.waiting_only else self._cancel_attempt(attempts)
            case Stop():
                if self._profile.incarnation in message.incarnations:
                    self.stop(now=message.mode == "now")
            case _:
                raise MalformedMessage(
                    f"a {message.type} message does not belong in a worker's queue"
                )

    def _serve(self, store: str) -> None:
        """Attempts are numbered per store: a manager that lost its store begins again at 1."""
        if store == self._reporter.store:
            return
        self._cancel_attempt(list(self._held))
        self._seen.clear()
        self._memory.clear()
        self._reporter.change_store(store)

    def _accept(self, task: TaskAssignment) -> None:
        key = (task.run, task.id)
        name = _name(task)
        if (newest := self._seen.get(key, 0)) >= task.attempt:
            self._report_again(name)  # sent twice, or overtaken
            return
        self._seen[key] = task.attempt
        if newest:
            self._seen.move_to_end(key)
        self._held[name] = name
        while len(self._seen) > _REMEMBERED + len(self._held):
            self._seen.popitem(last=False)
        if self.is_draining:
            self._reporter.report_result(result(name, Outcome.RETURNED, error=_LEAVING))
        else:
            self._slots.add_attempt(name, task)

    def _report_again(self, name: Attempt) -> None:
        """The manager has not heard how this attempt ended: say it again, or that we do not know any more."""
        run, id, number = name
        if name in self._held or self._seen.get((run, id)) != number:
            return
        told = self._memory.get(name)
        lost = "its result was lost on the way"
        self._reporter.report_result(told or result(name, Outcome.LOST, error=lost))

    # --- attempts

    def _new_run(self, name: Attempt, task: TaskAssignment) -> AttemptRun:
        """On any thread, as all of a slot that goes from one to the next."""
        crash_points.crash_if_chosen("worker.started")
        return AttemptRun(self._shop, name, task)

    def _on_attempt_started(self, making: AttemptRun) -> None:
        run, id, number = making.attempt
        if self._held.get(making.attempt) is not making.attempt:
            log.info(Log.ATTEMPT_CANCELLED, task=(run, id), attempt=number)
            making.cancel()  # it was called off before we heard that it had begun
            return
        self._reporter.report_start(making.attempt, making.started_at)
        self._log.debug(Log.ATTEMPT_STARTED, task=(run, id), attempt=number)

    def _on_attempt_over(self, making: AttemptRun, ended: Result | None) -> None:
        if ended is not None:
            run, id, _ = ended.attempt
            crash_points.crash_if_chosen("worker.finished")
            self._log.debug(Log.ATTEMPT_ENDED, task=(run, id), outcome=ended.outcome)
            self._reporter.report_result(ended)
        self._slots.on_attempt_over(making)

    def _cancel_attempt(self, attempts: Sequence[Attempt]) -> None:
        for one in attempts:
            self._held.pop(one, None)
            if self._slots.cancel_attempt(one):
                run, id, number = one
                log.info(Log.ATTEMPT_CANCELLED, task=(run, id), attempt=number)

    def _return_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Give those to others that have not begun."""
        for one in attempts:
            if self._slots.take_back(one):
                idle = "another worker is idle"
                self._reporter.report_result(result(one, Outcome.RETURNED, error=idle))

    def _forget(self, confirmed: Sequence[Result]) -> None:
        for one in confirmed:
            self._held.pop(one.attempt, None)
            self._memory.add_result(one)


def _name(of: AttemptRef) -> Attempt:
    return of.run, of.id, of.attempt


async def _cancel(
    tasks: Sequence[asyncio.Task[None] | asyncio.Task[bool]],
) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
