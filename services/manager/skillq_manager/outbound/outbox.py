"""Commands into messages: at most one per routing key and round, cut to fit."""

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

_RANKS = {"running": 0, "blocked": 1, "ready": 2, "assigned": 4}
_ENDED_RANK = 3  # of all others

OutgoingEvent = tuple[str, Sequence[Outgoing]]  # messages, and their routing key

log = structlog.get_logger()


class Outbox:
    """Publishes in the background, so that no broken worker or broker holds up the loop.

    `feed` takes events back to the loop; `is_current` says whether an attempt is still wanted, and
    `may_assign` whether this is certainly the manager whose word counts; until it is, assignments wait.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        feed: Callable[[e.Event], None],
        is_current: Callable[[AttemptRef, WorkerProfile], bool],
        may_assign: Callable[[], bool] = lambda: True,
    ) -> None:
        self._transport = transport
        self._store = store
        self._feed = feed
        self._is_current = is_current
        self._may_assign = may_assign
        self._news: deque[tuple[str, Outgoing]] = deque()
        self._is_telling = False
        self._pending: set[asyncio.Task[None]] = set()

    def event_messages(self, decided: c.Decisions) -> list[OutgoingEvent]:
        """What is to be told of tasks once the commands are committed."""
        by_key: defaultdict[tuple[str, str, str], list[Fields]] = defaultdict(list)
        for run, task_type, item in task_events(decided):
            by_key[run, task_type, item["status"]].append(item)
        found: list[OutgoingEvent] = []
        for (run, task_type, status), items in sorted(by_key.items(), key=_rank):
            messages, _ = split_to_fit(partial(events, run, task_type), items)
            key = f"task.{run}.{slug(task_type)}.{status}"
            found.append((key, [message for message, _ in messages]))
        return found

    async def send(self, decided: c.Decisions, news: Iterable[OutgoingEvent]) -> None:
        """Send what the commands ask for; return when it is on its way, not when it is confirmed."""
        await self._send_assignments([*decided.of_kind(c.Resend), *decided.of_kind(c.Assign)])
        for abort in decided.of_kind(c.CancelAttempts):
            self._send_cancel(abort)
        for recall in decided.of_kind(c.RecallAttempts):
            self._send_cancel(recall)
        for key, messages in news:
            self._publish_events(key, messages)
        for saved in decided.of_kind(c.SaveWorker):
            self._send_worker(saved)
        for answer in decided.of_kind(c.AnswerSubmission):
            self._publish_run_event(_answer_event(answer, self._store.id))
        # All that leaves now: the rest may take as long as its way. In one turn it is handed to the transport, which
        # writes the first message; in the next, those that came with it.
        for _ in range(2):
            await asyncio.sleep(0)
        for complete in decided.of_kind(c.CompleteRun):
            # Before anything else is committed: these counts are of the end, and of nothing that came after.
            row = await self._store.run(complete.run)
            self._publish_run_event(_complete_event(complete, row))

    async def flush(self, timeout: float) -> None:
        """Wait until all is confirmed, and news are on their way, `timeout` seconds at most; drop the rest."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=timeout)
        for task in list(self._pending):
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    def reply(self, to: str, answer: Callable[[], Awaitable[Sequence[Outgoing]]]) -> None:
        """Send what a client has asked for."""
        self._spawn(self._reply(f"answer.{to}", answer))

    async def _reply(self, key: str, answer: Callable[[], Awaitable[Sequence[Outgoing]]]) -> None:
        try:
            messages = await answer()
        except SkillqError as error:
            log.debug(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))
            return  # it asks again
        for message in messages:
            await self._publish_one(key, message)

    def declare(self, worker: str) -> None:
        self._spawn(self._declare(worker))

    async def stop_all(self, incarnations: Iterable[str], reason: str) -> None:
        def make(incarnations: tuple[str, ...]) -> Outgoing:
            return Outgoing.from_message(Stop(incarnations=incarnations, reason=reason))

        messages, _ = split_to_fit(make, list(incarnations))
        for stop, _ in messages:
            try:
                await self._transport.publish(topology.COMMANDS, "stop.all", stop)
            except UnroutableMessage:
                return  # nobody is there
            except TransportError as error:
                log.warning(Log.PUBLISH_NOT_CONFIRMED, key="stop.all", error=str(error))

    # --- assignments

    async def _send_assignments(self, wanted: list[c.Assign | c.Resend]) -> None:
        if not wanted:
            return
        bodies = await self._store.bodies([o.key for o in wanted])
        # A namesake that was started anew within this round is another worker.
        by_worker: dict[tuple[str, str], tuple[WorkerProfile, list[Fields]]] = {}
        for order in wanted:
            who = (order.worker.name, order.worker.incarnation)
            _, items = by_worker.setdefault(who, (order.worker, []))
            items.append(assignment(order.key, order.attempt, bodies[order.key]))
        for worker, items in by_worker.values():
            self._send_to(worker, items)

    def _send_to(self, worker: WorkerProfile, items: list[Fields]) -> None:
        messages, too_large = split_to_fit(partial(assignments, worker, self._store.id), items)
        for message, tasks in messages:
            self._spawn(self._deliver(worker, message, tasks))
        for item in too_large:
            reason = (
                f"its payload and the outputs of its dependencies are over {MAX_MESSAGE_BYTES} bytes together; "
                "return references instead"
            )
            self._feed(e.AssignmentUndeliverable(attempt_ref(item), reason))

    async def _deliver(
        self, worker: WorkerProfile, message: Outgoing, tasks: Sequence[Fields]
    ) -> None:
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
                self._feed(
                    e.AssignmentReturned(
                        worker.name, worker.incarnation, tuple(map(attempt_ref, tasks))
                    )
                )
                await self._declare(worker.name)
                return
            except TransportError as error:
                log.warning(Log.PUBLISH_NOT_CONFIRMED, worker=worker.title, error=str(error))
                await asyncio.sleep(timings.ASSIGNMENT_RETRY_SECONDS)
            else:
                crash_points.crash_if_chosen("manager.confirmed")
                return

    async def _declare(self, worker: str) -> None:
        try:
            await self._transport.declare(topology.worker_topology(worker))
        except (TransportError, UsageError, Unreachable) as error:
            # The worker says Connect again until its queue is there.
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
            self._spawn(self._cancel(f"cancel.{worker.name}", message))

    async def _cancel(self, key: str, message: Outgoing) -> None:
        try:
            await self._transport.publish(topology.COMMANDS, key, message)
        except TransportError as error:
            log.debug(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))

    # --- events

    def _send_worker(self, saved: c.SaveWorker) -> None:
        event = _worker_event(saved)
        if saved.event is WorkerEventKind.CONNECTED:
            self.declare(event.worker)  # its queue may have expired while it was away
        self._publish_event(f"worker.{event.worker}.{event.event}", event)

    def _publish_run_event(self, event: RunEvent) -> None:
        self._publish_event(f"run.{event.run}.{event.status}", event)

    def _publish_event(self, key: str, event: RunEvent | WorkerEvent) -> None:
        self._publish_events(key, [Outgoing.from_message(event, persistent=False)])

    def _publish_events(self, key: str, messages: Iterable[Outgoing]) -> None:
        self._news.extend((key, message) for message in messages)
        if not self._is_telling:
            self._is_telling = True
            self._spawn(self._publish_all())

    async def _publish_all(self) -> None:
        try:
            while self._news:
                key, message = self._news.popleft()
                try:
                    await self._publish_one(key, message)
                except Exception as error:  # noqa: BLE001 - it holds up none of those after it
                    log.warning(Log.PUBLISH_NOT_CONFIRMED, key=key, error=repr(error))
        finally:
            self._is_telling = False

    async def _publish_one(self, key: str, message: Outgoing) -> None:
        try:
            await self._transport.publish_unconfirmed(topology.EVENTS, key, message)
        except TransportError as error:
            log.debug(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)


def _rank(of: tuple[tuple[str, str, str], object]) -> int:
    """In one turn, a task can go through these in this order only: clients keep what they hear last."""
    (_, _, status), _ = of
    return _RANKS.get(status, _ENDED_RANK)


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
