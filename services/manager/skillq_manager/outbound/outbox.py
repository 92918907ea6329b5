"""Turns commands into messages and publishes them.

Each round gives at most one message for each routing key, unless that message would be too large.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

import structlog

from skillq import timings, topology
from skillq.errors import SkillqError, TransportError, Unreachable, UnroutableMessage, UsageError
from skillq.messages import (
    MAX_MESSAGE_BYTES,
    AttemptRef,
    Cancel,
    RunEvent,
    RunStatus,
    Stop,
    WorkerEvent,
    WorkerEventKind,
    WorkerProfile,
    slug,
)
from skillq.runtime import crash_points
from skillq.runtime.logs import Log
from skillq.transport import Outgoing, Transport
from skillq.transport.batching import split_to_fit
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.outbound.messages import (
    Fields,
    assignment,
    assignments,
    attempt_ref,
    events,
    task_events,
)
from skillq_manager.store.base import RunRow, Store

_STATUS_ORDER = {"running": 0, "blocked": 1, "ready": 2, "assigned": 4}
_ENDED_ORDER = 3  # of all other statuses

OutgoingEvent = tuple[str, Sequence[Outgoing]]  # routing key, messages

log = structlog.get_logger()


class Outbox:
    """Publishes in the background, so that a slow broker does not delay the manager's rounds.

    `add_event` puts an event into the inbox. `is_current` returns whether an attempt is still the current one
    of a worker. `may_assign` returns whether this manager certainly leads; until then, assignments wait.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        add_event: Callable[[e.Event], None],
        is_current: Callable[[AttemptRef, WorkerProfile], bool],
        may_assign: Callable[[], bool] = lambda: True,
    ) -> None:
        self._transport = transport
        self._store = store
        self._add_event = add_event
        self._is_current = is_current
        self._may_assign = may_assign
        self._unsent_events: deque[tuple[str, Outgoing]] = deque()
        self._is_publishing = False
        self._pending: set[asyncio.Task[None]] = set()

    def event_messages(self, decisions: c.Decisions) -> list[OutgoingEvent]:
        """Return the event messages of tasks, to be sent once the commands are committed."""
        by_key: defaultdict[tuple[str, str, str], list[Fields]] = defaultdict(list)
        for run, task_type, item in task_events(decisions):
            by_key[run, task_type, item["status"]].append(item)
        outgoing: list[OutgoingEvent] = []
        for (run, task_type, status), items in sorted(by_key.items(), key=_status_order):
            messages, _ = split_to_fit(partial(events, run, task_type), items)
            key = f"task.{run}.{slug(task_type)}.{status}"
            outgoing.append((key, [message for message, _ in messages]))
        return outgoing

    async def send(self, decisions: c.Decisions, event_messages: Iterable[OutgoingEvent]) -> None:
        """Send the messages of the commands; return when they are written, not yet confirmed."""
        await self._send_assignments([*decisions.of_kind(c.Resend), *decisions.of_kind(c.Assign)])
        for cancel in decisions.of_kind(c.CancelAttempts):
            self._send_cancel(cancel)
        for recall in decisions.of_kind(c.RecallAttempts):
            self._send_cancel(recall)
        for key, messages in event_messages:
            self._publish_events(key, messages)
        for saved in decisions.of_kind(c.SaveWorker):
            self._send_worker_event(saved)
        for answer in decisions.of_kind(c.AnswerSubmission):
            self._publish_run_event(_answer_event(answer, self._store.id))
        # Let these messages leave before the store is read, which may take longer than their delivery. In the
        # first pass of the event loop the transport writes the first message, in the next pass all others.
        for _ in range(2):
            await asyncio.sleep(0)
        for complete in decisions.of_kind(c.CompleteRun):
            # Read the counts before the next commit, so that they are those of the completed run.
            row = await self._store.run(complete.run)
            self._publish_run_event(_complete_event(complete, row))

    async def flush(self, timeout: float) -> None:
        """Wait until all messages are sent, `timeout` seconds at most, and drop the rest."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=timeout)
        for task in list(self._pending):
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    def reply(self, to: str, answer: Callable[[], Awaitable[Sequence[Outgoing]]]) -> None:
        """Send the answer to a status query, in the background; `to` is its submission id."""
        self._spawn(self._reply(f"answer.{to}", answer))

    async def _reply(self, key: str, answer: Callable[[], Awaitable[Sequence[Outgoing]]]) -> None:
        try:
            messages = await answer()
        except SkillqError as error:
            log.debug(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))
            return  # the client asks again
        for message in messages:
            await self._publish_one(key, message)

    def declare_worker_queue(self, worker: str) -> None:
        """Declare the queue of a worker, in the background."""
        self._spawn(self._declare_worker_queue(worker))

    async def stop_workers(self, incarnations: Iterable[str], reason: str) -> None:
        """Ask these starts of workers to drain and leave."""

        def make(incarnations: tuple[str, ...]) -> Outgoing:
            return Outgoing.from_message(Stop(incarnations=incarnations, reason=reason))

        messages, _ = split_to_fit(make, list(incarnations))
        for stop, _ in messages:
            try:
                await self._transport.publish(topology.COMMANDS, "stop.all", stop)
            except UnroutableMessage:
                return  # no worker is connected
            except TransportError as error:
                log.warning(Log.PUBLISH_NOT_CONFIRMED, key="stop.all", error=str(error))

    # --- assignments

    async def _send_assignments(self, commands: list[c.Assign | c.Resend]) -> None:
        if not commands:
            return
        bodies = await self._store.bodies([command.key for command in commands])
        # A worker that restarted within this round has another incarnation, and gets a message of its own.
        by_worker: dict[tuple[str, str], tuple[WorkerProfile, list[Fields]]] = {}
        for command in commands:
            worker_id = (command.worker.name, command.worker.incarnation)
            _, items = by_worker.setdefault(worker_id, (command.worker, []))
            items.append(assignment(command.key, command.attempt, bodies[command.key]))
        for worker, items in by_worker.values():
            self._send_to_worker(worker, items)

    def _send_to_worker(self, worker: WorkerProfile, items: list[Fields]) -> None:
        messages, too_large = split_to_fit(partial(assignments, worker, self._store.id), items)
        for message, tasks in messages:
            self._spawn(self._publish_assignments(worker, message, tasks))
        for item in too_large:
            reason = (
                f"its payload and the outputs of its dependencies are over {MAX_MESSAGE_BYTES} bytes together; "
                "return references instead"
            )
            self._add_event(e.AssignmentUndeliverable(attempt_ref(item), reason))

    async def _publish_assignments(
        self, worker: WorkerProfile, message: Outgoing, tasks: Sequence[Fields]
    ) -> None:
        """Publish a message until it is confirmed or returned, or none of its attempts is current."""
        while any(self._is_current(attempt_ref(task), worker) for task in tasks):
            if not self._may_assign():
                await asyncio.sleep(timings.ASSIGNMENT_RETRY_SECONDS)
                continue
            try:
                await self._transport.publish(
                    topology.COMMANDS, f"assignment.{worker.name}", message
                )
            except UnroutableMessage:
                log.warning(Log.ASSIGNMENT_RETURNED, worker=worker.title, tasks=len(tasks))
                self._add_event(
                    e.AssignmentReturned(
                        worker.name, worker.incarnation, tuple(map(attempt_ref, tasks))
                    )
                )
                await self._declare_worker_queue(worker.name)
                return
            except TransportError as error:
                log.warning(Log.PUBLISH_NOT_CONFIRMED, worker=worker.title, error=str(error))
                await asyncio.sleep(timings.ASSIGNMENT_RETRY_SECONDS)
            else:
                crash_points.crash_if_chosen("manager.confirmed")
                return

    async def _declare_worker_queue(self, worker: str) -> None:
        try:
            await self._transport.declare(topology.worker_topology(worker))
        except (TransportError, UsageError, Unreachable) as error:
            # The worker sends Connect again until its queue exists.
            log.warning(Log.PUBLISH_NOT_CONFIRMED, worker=worker, error=str(error))

    def _send_cancel(self, command: c.CancelAttempts | c.RecallAttempts) -> None:
        worker = command.worker
        is_recall = isinstance(command, c.RecallAttempts)

        def make(attempts: tuple[AttemptRef, ...]) -> Outgoing:
            cancel = Cancel(
                worker=worker.name,
                incarnation=worker.incarnation,
                store=command.store,
                attempts=attempts,
                reason="another worker is idle" if is_recall else "not its attempt any more",
                waiting_only=is_recall,
            )
            return Outgoing.from_message(cancel)

        messages, _ = split_to_fit(make, command.attempts)
        for message, _ in messages:
            self._spawn(self._publish_cancel(f"cancel.{worker.name}", message))

    async def _publish_cancel(self, key: str, message: Outgoing) -> None:
        try:
            await self._transport.publish(topology.COMMANDS, key, message)
        except TransportError as error:
            log.debug(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))

    # --- events

    def _send_worker_event(self, saved: c.SaveWorker) -> None:
        event = _worker_event(saved)
        if saved.event is WorkerEventKind.CONNECTED:
            self.declare_worker_queue(event.worker)  # its queue may have expired while it was away
        self._publish_event(f"worker.{event.worker}.{event.event}", event)

    def _publish_run_event(self, event: RunEvent) -> None:
        self._publish_event(f"run.{event.run}.{event.status}", event)

    def _publish_event(self, key: str, event: RunEvent | WorkerEvent) -> None:
        self._publish_events(key, [Outgoing.from_message(event, persistent=False)])

    def _publish_events(self, key: str, messages: Iterable[Outgoing]) -> None:
        self._unsent_events.extend((key, message) for message in messages)
        if not self._is_publishing:
            self._is_publishing = True
            self._spawn(self._publish_unsent_events())

    async def _publish_unsent_events(self) -> None:
        try:
            while self._unsent_events:
                key, message = self._unsent_events.popleft()
                try:
                    await self._publish_one(key, message)
                except Exception as error:  # noqa: BLE001 - the messages after this one are sent
                    log.warning(Log.PUBLISH_NOT_CONFIRMED, key=key, error=repr(error))
        finally:
            self._is_publishing = False

    async def _publish_one(self, key: str, message: Outgoing) -> None:
        try:
            await self._transport.publish_unconfirmed(topology.EVENTS, key, message)
        except TransportError as error:
            log.debug(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)


def _status_order(of: tuple[tuple[str, str, str], object]) -> int:
    """Return the order of events within a round: a client keeps the last status it receives."""
    (_, _, status), _ = of
    return _STATUS_ORDER.get(status, _ENDED_ORDER)


def _worker_event(command: c.SaveWorker) -> WorkerEvent:
    return WorkerEvent(
        worker=command.profile.name,
        title=command.profile.title,
        incarnation=command.profile.incarnation,
        event=command.event,
        at=command.at,
        reason=command.reason,
    )


def _complete_event(command: c.CompleteRun, row: RunRow | None) -> RunEvent:
    return RunEvent(
        run=command.run,
        title=row.title if row else command.run,
        status=RunStatus.COMPLETED,
        at=command.at,
        counts={status: n for status, n in row.counts.items() if n} if row else {},
    )


def _answer_event(command: c.AnswerSubmission, store: str) -> RunEvent:
    return RunEvent(
        run=command.submission.run,
        title=command.submission.run_title,
        status=RunStatus.REFUSED if command.reason else RunStatus.ACCEPTED,
        at=command.at,
        submission_id=command.submission.submission_id,
        accepted=command.accepted,
        known=command.known,
        reason=command.reason,
        store=store,
    )
