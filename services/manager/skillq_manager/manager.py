"""The manager's shell: take all that has arrived, decide once, commit once, send, acknowledge once.

What has been acknowledged has been committed. What is lost on the way to a worker is noticed by
comparing its heartbeat with what it should hold, and sent again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from skillq import topology
from skillq.clock import Clock
from skillq.errors import MalformedMessage, QueueInUse, TransportError, Unreachable, UsageError
from skillq.logs import Log
from skillq.messages import (
    AttemptRef,
    Connect,
    Probe,
    Submission,
    TaskStatus,
    WorkerProfile,
)
from skillq.transport import Consumer, Delivery, Outgoing, Transport, park
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey
from skillq_manager.core.state import State
from skillq_manager.inbox import Inbox, Intake, read
from skillq_manager.outbox import Outbox
from skillq_manager.store.base import Store

PREFETCH = 200
PROBE_SECONDS = 5.0
READY_SECONDS = 15.0  # a consumer that was not heard of for so long is not proven live
TAKE_OVER_SECONDS = 45.0  # the broker notices a hung predecessor after about 30 s
STOP_SECONDS = 10.0  # how long workers are waited for at the end

log = structlog.get_logger()

OnComplete = Callable[[str], Awaitable[None]]


class Manager:
    """Runs until stopped, or (`stop_when_done`) until all that was submitted has ended.

    `on_complete` is called with the name of a run whenever all its tasks have ended.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        state: State,
        *,
        clock: Clock,
        stop_when_done: bool = False,
        on_complete: OnComplete,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._stop_when_done = stop_when_done
        self._on_complete = on_complete
        self._inbox = Inbox(clock)
        self._outbox = Outbox(transport, store, self._inbox.add_event, self._is_current)
        self._answers: dict[str, asyncio.Future[c.Answer]] = {}
        self._stopping = False
        self._has_left = False
        self._has_completed = False
        self.store = store
        self.state = state

    # --- what the web and the process ask of it

    def stop(self) -> None:
        """Leave after the round that is going on."""
        self._stopping = True
        self._inbox.wake()

    async def submit(self, submission: Submission) -> c.Answer:
        """Take in a submission that came by another way than the broker.

        Raises:
            Unreachable: the manager left before it could decide.
        """
        if self._has_left:
            raise Unreachable("the manager has stopped; submit again")
        future: asyncio.Future[c.Answer] = asyncio.get_running_loop().create_future()
        self._answers[submission.submission_id] = future
        self._inbox.add_submission(submission)
        try:
            return await future
        finally:
            self._answers.pop(submission.submission_id, None)

    @property
    def is_ready(self) -> bool:
        """The broker is connected, and each consumer has lately brought something."""
        now = self._clock()
        heard = (self._inbox.heard.get(queue) for queue in _QUEUES)
        return self._transport.connected and all(
            at is not None and now - at < READY_SECONDS for at in heard
        )

    def reason(self, key: TaskKey) -> str | None:
        """Why a task that has not ended is where it is."""
        return self.state.reason(key, self._clock())

    # --- the loop

    async def run(self) -> None:
        """Serve, until stopped.

        Raises:
            UsageError: another manager serves this broker, or its queues were declared by another release.
            TransportError: the broker could not be asked.
        """
        await self._transport.declare(topology.MANAGER)
        consumers = {queue: await self._consume(queue) for queue in _QUEUES}
        log.info(Log.CONNECTED)
        background = [
            asyncio.create_task(self._inbox.pump(queue, consumer), name=f"pump {queue}")
            for queue, consumer in consumers.items()
        ]
        background.append(asyncio.create_task(self._probe(), name="probe"))
        loop = asyncio.create_task(self._loop(), name="manager")
        try:
            await asyncio.wait([loop, *background], return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done():
                    task.result()
            await loop
        finally:
            self._has_left = True
            await _cancel([loop, *background])
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(Unreachable("the manager is stopping; submit again"))
            await self._outbox.flush(timeout=STOP_SECONDS)
            for consumer in consumers.values():
                await consumer.close()

    async def _loop(self) -> None:
        while not self._stopping:
            deadline = self.state.next_deadline()
            timeout = None if deadline is None else max(0.0, deadline - self._clock())
            await self._round(await self._inbox.take(timeout))
            if self._stop_when_done and self._has_completed and self.state.is_idle:
                await self._say_goodbye()
                return

    async def _round(self, intake: Intake) -> None:
        events, settled = await self._read(intake)
        commands = self.state.handle(events, self._clock())
        if commands:
            await self.store.commit(commands)
            await self._outbox.send(commands)
        for consumer, deliveries in settled:
            await consumer.ack(deliveries)
        for command in commands:
            await self._tell(command)

    async def _read(
        self, intake: Intake
    ) -> tuple[list[c.Event], list[tuple[Consumer, list[Delivery]]]]:
        events: list[c.Event] = list(intake.events)
        submissions = list(intake.submissions)
        settled: list[tuple[Consumer, list[Delivery]]] = []
        for consumer, deliveries in intake.deliveries:
            good: list[Delivery] = []
            for delivery in deliveries:
                try:
                    message = read(delivery)
                except MalformedMessage as error:
                    await self._park(consumer, delivery, str(error))
                    continue
                good.append(delivery)
                if isinstance(message, Submission):
                    submissions.append(message)
                elif not isinstance(message, Probe):
                    self._greet(message)
                    events.append(message)
            settled.append((consumer, good))
        return events + await self._with_known(submissions), settled

    def _greet(self, message: object) -> None:
        if isinstance(message, Connect) and not message.ready:
            self._outbox.declare(message.worker.name)

    async def _park(self, consumer: Consumer, delivery: Delivery, reason: str) -> None:
        log.warning(Log.MESSAGE_PARKED, queue=delivery.queue, reason=reason)
        try:
            await park(self._transport, consumer, delivery, reason)
        except TransportError:
            await consumer.nack(delivery, requeue=True)

    async def _with_known(self, submissions: Sequence[Submission]) -> list[c.Event]:
        """Each submission with what the store knows of the tasks it names."""
        keys = {
            (s.run, id)
            for s in submissions
            for task in s.tasks
            for id in (task.id, *task.depends_on)
        }
        if not keys:
            return []
        known = await self.store.known(keys)
        titles = {s.run: await self.store.run(s.run) for s in submissions}
        return [
            c.Submitted(s, known, row.title if (row := titles[s.run]) is not None else None)
            for s in submissions
        ]

    async def _tell(self, command: c.Command) -> None:
        """Say what has been decided: to the log, to a waiting submitter, to `on_complete`."""
        match command:
            case c.Answer():
                _log_answer(command)
                future = self._answers.get(command.submission.submission_id)
                if future is not None and not future.done():
                    future.set_result(command)
            case c.CompleteRun(run=run):
                log.info(Log.RUN_COMPLETED, run=run)
                self._has_completed = True
                await self._on_complete(run)
            case _:
                _log(command)

    def _is_current(self, ref: AttemptRef, worker: WorkerProfile) -> bool:
        return self.state.is_current(ref, worker.name, worker.incarnation)

    # --- start and end

    async def _consume(self, queue: str) -> Consumer:
        """Consume alone: two managers would each decide over half of what arrives."""
        give_up_at = self._clock() + TAKE_OVER_SECONDS
        while True:
            try:
                return await self._transport.consume(queue, prefetch=PREFETCH, exclusive=True)
            except QueueInUse as error:
                if self._clock() > give_up_at:
                    raise UsageError(
                        f"another manager consumes {queue} on this broker; stop it, or use another vhost"
                    ) from error
                log.info(Log.WAITING_FOR_QUEUE, queue=queue)
                await asyncio.sleep(1.0)

    async def _probe(self) -> None:
        """Send messages to oneself: proof that the consumers live, when nothing else comes."""
        while True:
            for exchange, key in _PROBES:
                probe = Outgoing.of(Probe(), persistent=False)
                try:
                    await self._transport.publish(exchange, key, probe, mandatory=False)
                except TransportError as error:
                    log.debug(Log.NOT_CONFIRMED, key=key, error=str(error))
            await asyncio.sleep(PROBE_SECONDS)

    async def _say_goodbye(self) -> None:
        """Send every worker home, and wait until they have gone."""
        workers = self.state.fleet.workers.values()
        await self._outbox.stop_all((w.incarnation for w in workers), "all tasks are done")
        give_up_at = self._clock() + STOP_SECONDS
        while self.state.fleet.workers and self._clock() < give_up_at:
            await self._round(await self._inbox.take(give_up_at - self._clock()))


# RabbitMQ takes no notice of `exclusive` on quorum queues: the classic one comes first, and is the lock.
_QUEUES = (topology.MANAGER_HEARTBEATS, topology.MANAGER_REPORTS, topology.MANAGER_SUBMISSIONS)
_PROBES = (
    (topology.SUBMISSIONS, "submit.manager"),
    (topology.REPORTS, "progress.manager"),
    (topology.REPORTS, "heartbeat.manager"),
)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _log_answer(answer: c.Answer) -> None:
    run = answer.submission.run
    if answer.reason is not None:
        log.warning(Log.SUBMISSION_REFUSED, run=run, reason=answer.reason)
    else:
        log.info(Log.SUBMISSION_ACCEPTED, run=run, tasks=answer.accepted, known=answer.known)


def _log(command: c.Command) -> None:
    match command:
        case c.SaveWorker(profile=worker):
            log.info(
                Log.WORKER_CHANGED, worker=worker.title, now=command.event, reason=command.reason
            )
        case c.Assign(worker=worker):
            log.debug(
                Log.TASK_ASSIGNED, task=command.key, attempt=command.attempt, worker=worker.title
            )
        case c.EndAttempt(worker=worker, status=TaskStatus.SUCCEEDED):
            log.debug(
                Log.TASK_ENDED, task=command.key, attempt=command.attempt, worker=worker.title
            )
        case c.EndAttempt(worker=worker):
            log.info(
                Log.TASK_ENDED,
                task=command.key,
                attempt=command.attempt,
                worker=worker.title,
                outcome=command.outcome,
                now=command.status,
                reason=command.reason,
            )
        case c.Stale(result=result):
            log.info(
                Log.RESULT_STALE,
                task=(result.run, result.id),
                attempt=result.attempt,
                worker=command.worker,
            )
        case _:
            pass
