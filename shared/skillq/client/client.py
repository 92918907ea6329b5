"""The client: hands tasks in and follows what becomes of them, over the broker alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TypeVar

from skillq import timings, topology
from skillq.client.run import OpenRun, binding_keys, follow_events
from skillq.client.submission import (
    ClientEvent,
    FollowedSubmission,
    OnEvent,
    Receipt,
    follow_submission,
    run_title,
)
from skillq.errors import (
    MalformedMessage,
    SkillqError,
    TransportError,
    Unreachable,
)
from skillq.messages import (
    RunEvent,
    StatusQuery,
    StatusReply,
    Task,
    TaskEvent,
    TaskEvents,
    TaskStatus,
    decode,
    slug,
)
from skillq.runtime.clock import Clock, steady_clock
from skillq.transport import Consumer, Delivery, Outgoing, Transport

__all__ = ["Client", "OpenRun", "Receipt", "RunResult"]

Result = TypeVar("Result")


@dataclass(slots=True)
class RunResult:
    """How a run has ended: all its counts, and the last event of each task that was seen."""

    counts: dict[TaskStatus, int]
    tasks: dict[str, TaskEvent]

    @property
    def has_succeeded(self) -> bool:
        return all(status is TaskStatus.SUCCEEDED for status, n in self.counts.items() if n)


class Client:
    """`patience` is how many seconds to wait for a manager that was never there."""

    def __init__(
        self,
        transport: Transport,
        *,
        name: str = "client",
        patience: float = timings.START_TIMEOUT_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._transport = transport
        self._key = f"submit.{slug(name)}"
        self._patience = patience
        self._clock = clock or steady_clock()

    async def submit(
        self, run: str, tasks: Sequence[Task], *, wait: float = timings.RECEIPT_SECONDS
    ) -> Receipt | None:
        """Hand tasks in, which are accepted or refused as a whole. They are safe with the broker when this returns.

        Returns the manager's receipt, or None where it has not answered within `wait` seconds.

        Raises:
            UsageError: the manager refuses them, or no broker could carry them.
            Unreachable: there was no manager yet that would have made the queues.
        """
        handed = follow_submission(run, tasks)
        async with self._subscribed(handed) as events:
            await self._publish(handed)
            try:
                async with asyncio.timeout(wait):
                    while handed.receipt is None:
                        for news in await _read_events(events, await events.batch()):
                            handed.on_event_received(news)
            except TimeoutError:
                return None
        return handed.receipt

    async def complete(
        self, run: str, tasks: Sequence[Task], on_event: OnEvent = lambda _: None
    ) -> RunResult:
        """Hand tasks in, and follow the run until all its tasks have ended.

        Raises:
            UsageError: the manager refuses them, or no broker could carry them.
            Unreachable: there was no manager yet that would have made the queues.
        """
        handed = follow_submission(run, tasks, on_event)
        async with self._subscribed(handed) as events:
            await self._publish(handed)
            await self._follow(handed, events)
        assert handed.counts is not None  # noqa: S101 - else it would go on
        return RunResult(handed.counts, handed.tasks)

    @asynccontextmanager
    async def open(self, run: str) -> AsyncIterator[OpenRun]:
        """A run to hand tasks in to again and again, whose results come over one subscription.

        Raises:
            UsageError: the run's name makes no name.
            Unreachable: there was no manager yet that would have made the exchanges.
        """
        keys = binding_keys(slug(run_title(run)))
        events = await self._retrying(lambda: self._transport.subscribe(topology.EVENTS, keys))

        async def heard() -> list[ClientEvent]:
            return await _read_events(events, await events.batch())

        opened = OpenRun(run, self._publish_retrying, self._query, self._clock)
        listening = asyncio.create_task(follow_events(opened, heard), name="results")
        try:
            yield opened
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            opened.close(SkillqError(f"the run {run} was closed before all of it had ended"))
            await events.close()

    async def _query(self, inquiry: StatusQuery) -> list[StatusReply]:
        """What the manager answers; nothing where it does not, in time."""
        answers: list[StatusReply] = []
        key = f"answer.{inquiry.submission_id}"
        events = await self._transport.subscribe(topology.EVENTS, [key])
        try:
            async with asyncio.timeout(timings.STATUS_QUERY_SECONDS):
                await self._publish_message(Outgoing.from_message(inquiry, persistent=False))
                while not answers or answers[-1].more:
                    news = await _read_events(events, await events.batch())
                    answers += [one for one in news if isinstance(one, StatusReply)]
        except TimeoutError:
            return []
        finally:
            await events.close()
        return answers

    async def _follow(self, handed: FollowedSubmission, events: Consumer) -> None:
        """Until all is known; or the run has ended, and what we have missed of it nobody tells us."""
        heard_at = self._clock()
        ask_at = heard_at + timings.CLIENT_SILENCE_SECONDS
        while not handed.is_complete:
            give_up_at = inf if handed.counts is None else heard_at + self._patience
            until = min(ask_at, give_up_at)
            news = await self._next_events(events, until)
            about_us = [handed.on_event_received(one) for one in news]
            now = self._clock()
            if any(about_us):
                heard_at = now
            elif now >= give_up_at or (not news and until == give_up_at):
                return
            if handed.is_lost:
                await self._publish(handed)
            elif handed.needs_query or not news or now >= ask_at:
                await self._send_query(handed)
            elif handed.receipt is None or not any(about_us):
                continue  # what others do in the same run is no answer to us
            ask_at = self._clock() + timings.CLIENT_SILENCE_SECONDS

    async def _next_events(self, events: Consumer, until: float) -> list[ClientEvent]:
        """What comes next; nothing after a silence."""
        try:
            async with asyncio.timeout(max(0.0, until - self._clock())):
                deliveries = await events.batch()
        except TimeoutError:
            return []
        return await _read_events(events, deliveries)

    @asynccontextmanager
    async def _subscribed(self, handed: FollowedSubmission) -> AsyncIterator[Consumer]:
        keys = (f"task.{handed.run}.*.*", f"run.{handed.run}.*", f"answer.{handed.id}")
        events = await self._retrying(lambda: self._transport.subscribe(topology.EVENTS, keys))
        try:
            yield events
        finally:
            await events.close()

    async def _publish(self, handed: FollowedSubmission) -> None:
        for message in handed.messages:
            await self._publish_retrying(message)
        handed.on_published()

    async def _publish_retrying(self, message: Outgoing) -> None:
        await self._retrying(partial(self._publish_message, message))

    async def _send_query(self, handed: FollowedSubmission) -> None:
        try:
            await self._retrying(partial(self._publish_message, handed.next_query()))
        except Unreachable:
            if handed.counts is None:
                raise

    async def _publish_message(self, message: Outgoing) -> None:
        await self._transport.publish(topology.SUBMISSIONS, self._key, message)

    async def _retrying(self, operation: Callable[[], Awaitable[Result]]) -> Result:
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
                await asyncio.sleep(timings.CLIENT_RETRY_SECONDS)


async def _read_events(events: Consumer, deliveries: Sequence[Delivery]) -> list[ClientEvent]:
    await events.ack(deliveries)
    messages = []
    for delivery in deliveries:
        try:
            message = decode(delivery.body)
        except MalformedMessage:
            continue  # events are news, not orders: what cannot be read is passed over
        if isinstance(message, TaskEvents | RunEvent | StatusReply):
            messages.append(message)
    return messages
