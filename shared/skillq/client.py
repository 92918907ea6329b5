"""The client: hands tasks in and follows what becomes of them, over the broker alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from typing import TypeVar
from uuid import uuid4

from skillq import topology
from skillq.clock import Clock, steady_clock
from skillq.errors import MalformedMessage, TransportError, Unreachable, UsageError
from skillq.forms import one_line
from skillq.messages import (
    RunEvent,
    RunStatus,
    Submission,
    Task,
    TaskEvent,
    TaskEvents,
    TaskStatus,
    decode,
    slug,
)
from skillq.packing import check_readable, pack
from skillq.transport import Consumer, Outgoing, Transport

_RETRY_SECONDS = 0.5
_SILENCE_SECONDS = (
    15.0  # then events may have been missed: the submission is sent again, and answered
)

Result = TypeVar("Result")
OnEvent = Callable[[TaskEvent], None]


@dataclass(frozen=True, slots=True)
class Receipt:
    """How many tasks are new to the manager, and how many it had already."""

    accepted: int
    known: int


@dataclass(slots=True)
class RunResult:
    """How a run has ended: all its counts, and the last event of each task that was seen."""

    counts: dict[TaskStatus, int]
    tasks: dict[str, TaskEvent]

    @property
    def has_succeeded(self) -> bool:
        return all(status is TaskStatus.SUCCEEDED for status, n in self.counts.items() if n)


@dataclass(slots=True)
class _Pending:
    """Submissions on their way, and the manager's answers to them."""

    messages: dict[str, Outgoing]  # by submission id
    answers: dict[str, Receipt] = field(default_factory=dict)
    ask_again_at: float = 0.0

    @property
    def receipt(self) -> Receipt | None:
        if len(self.answers) < len(self.messages):
            return None
        answers = self.answers.values()
        return Receipt(sum(a.accepted for a in answers), sum(a.known for a in answers))


class Client:
    """`patience` is how many seconds to wait for a manager that was never there."""

    def __init__(
        self,
        transport: Transport,
        *,
        name: str = "client",
        patience: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        self._transport = transport
        self._key = f"submit.{slug(name)}"
        self._patience = patience
        self._clock = clock or steady_clock()

    async def submit(self, run: str, tasks: Sequence[Task], *, wait: float = 5.0) -> Receipt | None:
        """Hand tasks in. They are safe with the broker when this returns.

        Returns the manager's receipt, or None where it has not answered within `wait` seconds.

        Raises:
            UsageError: the manager refuses them.
            Unreachable: there was no manager yet that would have made the queues.
        """
        async with self._following(run) as events:
            pending = _Pending(_submissions(run, tasks))
            await self._publish(pending)
            try:
                async with asyncio.timeout(wait):
                    async for event in _run_events(events):
                        _note(pending, event)
                        if pending.receipt is not None:
                            return pending.receipt
            except TimeoutError:
                return None
        return None

    async def complete(
        self, run: str, tasks: Sequence[Task], on_event: OnEvent = lambda _: None
    ) -> RunResult:
        """Hand tasks in, and follow the run until all its tasks have ended.

        Raises:
            UsageError: the manager refuses them.
            Unreachable: there was no manager yet that would have made the queues.
        """
        async with self._following(run) as events:
            pending = _Pending(_submissions(run, tasks))
            await self._publish(pending)
            seen: dict[str, TaskEvent] = {}
            while True:
                for event in await self._next(events, pending):
                    if isinstance(event, TaskEvents):
                        seen.update((item.id, item) for item in event.events)
                        for item in event.events:
                            on_event(item)
                    else:
                        _note(pending, event)
                        if event.status is RunStatus.COMPLETED and pending.receipt is not None:
                            return RunResult(event.counts, seen)

    @asynccontextmanager
    async def _following(self, run: str) -> AsyncIterator[Consumer]:
        keys = (f"task.{slug(run)}.*.*", f"run.{slug(run)}.*")
        events = await self._patiently(lambda: self._transport.subscribe(topology.EVENTS, keys))
        try:
            yield events
        finally:
            await events.close()

    async def _publish(self, pending: _Pending) -> None:
        for message in pending.messages.values():
            publish = partial(self._transport.publish, topology.SUBMISSIONS, self._key, message)
            await self._patiently(publish)
        pending.ask_again_at = self._clock() + _SILENCE_SECONDS

    async def _next(self, events: Consumer, pending: _Pending) -> list[TaskEvents | RunEvent]:
        """The events that come next; after a silence, none, and the question has been asked again.

        What others do in the same run is no answer to us: until we have one, it does not count.
        """
        try:
            async with asyncio.timeout(pending.ask_again_at - self._clock()):
                batch = await _batch(events)
        except TimeoutError:
            await self._publish(pending)
            return []
        if pending.receipt is not None and any(isinstance(one, TaskEvents) for one in batch):
            pending.ask_again_at = self._clock() + _SILENCE_SECONDS
        return batch

    async def _patiently(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        """Try until it works: the manager makes the exchanges, and it may start after us."""
        give_up_at = self._clock() + self._patience
        while True:
            try:
                return await operation()
            except TransportError as error:
                if self._clock() > give_up_at:
                    raise Unreachable(
                        f"no manager has served this broker for {self._patience:g} s ({error}); "
                        "start one: skillq manager"
                    ) from error
                await asyncio.sleep(_RETRY_SECONDS)


async def _batch(events: Consumer) -> list[TaskEvents | RunEvent]:
    deliveries = await events.batch()
    await events.ack(deliveries)
    messages = []
    for delivery in deliveries:
        try:
            message = decode(delivery.body)
        except MalformedMessage:
            continue  # events are news, not orders: what cannot be read is passed over
        if isinstance(message, TaskEvents | RunEvent):
            messages.append(message)
    return messages


async def _run_events(events: Consumer) -> AsyncIterator[RunEvent]:
    while True:
        for event in await _batch(events):
            if isinstance(event, RunEvent):
                yield event


def _note(pending: _Pending, event: RunEvent) -> None:
    if event.submission_id not in pending.messages:
        return
    if event.status is RunStatus.REFUSED:
        raise UsageError(event.reason or "the manager refuses the submission")
    pending.answers.setdefault(event.submission_id, Receipt(event.accepted, event.known))


def _submissions(run: str, tasks: Sequence[Task]) -> dict[str, Outgoing]:
    """The tasks as few messages, each of which depends on earlier ones only."""

    def make(part: tuple[Task, ...], id: str = "") -> Submission:
        return Submission(submission_id=id, run=slug(run), run_title=run, tasks=part)

    _check_sendable(tasks)
    parts, _ = pack(make, tasks)
    if len(parts) > 1:
        parts, _ = pack(make, _in_order(tasks))
    submissions = {}
    for _, part in parts:
        id = uuid4().hex
        submissions[id] = Outgoing.of(make(tuple(part), id))
    return submissions


def _check_sendable(tasks: Sequence[Task]) -> None:
    """A submission that the manager cannot read would be parked, and never answered."""
    for task in tasks:
        try:
            check_readable(task.model_dump_json().encode())
        except ValueError as error:
            raise UsageError(
                f"task {task.id}: its payload cannot be sent as JSON: {one_line(str(error))}"
            ) from error


def _in_order(tasks: Sequence[Task]) -> list[Task]:
    """Dependencies before their dependents."""
    by_id = {task.id: task for task in tasks}
    graph = {task.id: task.depends_on for task in tasks}
    return [by_id[id] for id in TopologicalSorter(graph).static_order() if id in by_id]
