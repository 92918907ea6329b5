"""The client: submits tasks and follows them to their ends, over the broker alone."""

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
    """How a run has ended: numbers of tasks by status, and the last event of each task."""

    counts: dict[TaskStatus, int]
    tasks: dict[str, TaskEvent]

    @property
    def has_succeeded(self) -> bool:
        """Whether all tasks of the run have succeeded."""
        return all(status is TaskStatus.SUCCEEDED for status, n in self.counts.items() if n)


class Client:
    """Submits tasks to a manager; waits `patience` seconds for a manager to appear."""

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
        """Submit tasks, which are accepted or refused as a whole.

        The broker has stored the tasks when this returns.

        Returns the manager's receipt, or None if the manager has not answered within `wait` seconds.

        Raises:
            UsageError: the manager refuses the tasks, or they are too large for messages.
            Unreachable: no manager has declared the queues yet.
        """
        submission = follow_submission(run, tasks)
        async with self._subscribed(submission) as events:
            await self._publish(submission)
            try:
                async with asyncio.timeout(wait):
                    while submission.receipt is None:
                        for event in await _read_events(events, await events.batch()):
                            submission.on_event_received(event)
            except TimeoutError:
                return None
        return submission.receipt

    async def complete(
        self, run: str, tasks: Sequence[Task], on_event: OnEvent = lambda _: None
    ) -> RunResult:
        """Submit tasks, and follow the run until all its tasks have ended.

        Raises:
            UsageError: the manager refuses the tasks, or they are too large for messages.
            Unreachable: no manager has declared the queues yet.
        """
        submission = follow_submission(run, tasks, on_event)
        async with self._subscribed(submission) as events:
            await self._publish(submission)
            await self._follow(submission, events)
        assert submission.counts is not None  # noqa: S101 - `_follow` ends only with the counts
        return RunResult(submission.counts, submission.tasks)

    @asynccontextmanager
    async def open(self, run: str) -> AsyncIterator[OpenRun]:
        """Open a run to submit tasks to at any time; one subscription brings all results.

        Raises:
            UsageError: the title of the run gives no name, or one that is too long.
            Unreachable: no manager has declared the exchanges yet.
        """
        keys = binding_keys(slug(run_title(run)))
        events = await self._retrying(lambda: self._transport.subscribe(topology.EVENTS, keys))

        async def read_batch() -> list[ClientEvent]:
            return await _read_events(events, await events.batch())

        open_run = OpenRun(run, self._publish_retrying, self._query, self._clock)
        follower = asyncio.create_task(follow_events(open_run, read_batch), name="results")
        try:
            yield open_run
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            open_run.close(SkillqError(f"the run {run} was closed before all of it had ended"))
            await events.close()

    async def _query(self, query: StatusQuery) -> list[StatusReply]:
        """Return the manager's replies to a status query, or none if they do not come in time."""
        replies: list[StatusReply] = []
        key = f"answer.{query.submission_id}"
        events = await self._transport.subscribe(topology.EVENTS, [key])
        try:
            async with asyncio.timeout(timings.STATUS_QUERY_SECONDS):
                await self._publish_message(Outgoing.from_message(query, persistent=False))
                while not replies or replies[-1].more:
                    received = await _read_events(events, await events.batch())
                    replies += [one for one in received if isinstance(one, StatusReply)]
        except TimeoutError:
            return []
        finally:
            await events.close()
        return replies

    async def _follow(self, submission: FollowedSubmission, events: Consumer) -> None:
        """Follow until all is known, or until a long silence after the run has completed."""
        last_event_at = self._clock()
        query_at = last_event_at + timings.CLIENT_SILENCE_SECONDS
        while not submission.is_complete:
            give_up_at = inf if submission.counts is None else last_event_at + self._patience
            until = min(query_at, give_up_at)
            received = await self._next_events(events, until)
            is_ours = [submission.on_event_received(one) for one in received]
            now = self._clock()
            if any(is_ours):
                last_event_at = now
            elif now >= give_up_at or (not received and until == give_up_at):
                return
            if submission.is_lost:
                await self._publish(submission)
            elif submission.needs_query or not received or now >= query_at:
                await self._send_query(submission)
            elif submission.receipt is None or not any(is_ours):
                continue  # events of other submissions in the run are no answer
            query_at = self._clock() + timings.CLIENT_SILENCE_SECONDS

    async def _next_events(self, events: Consumer, until: float) -> list[ClientEvent]:
        """Return the next events, or none if none comes until `until`."""
        try:
            async with asyncio.timeout(max(0.0, until - self._clock())):
                deliveries = await events.batch()
        except TimeoutError:
            return []
        return await _read_events(events, deliveries)

    @asynccontextmanager
    async def _subscribed(self, submission: FollowedSubmission) -> AsyncIterator[Consumer]:
        keys = (f"task.{submission.run}.*.*", f"run.{submission.run}.*", f"answer.{submission.id}")
        events = await self._retrying(lambda: self._transport.subscribe(topology.EVENTS, keys))
        try:
            yield events
        finally:
            await events.close()

    async def _publish(self, submission: FollowedSubmission) -> None:
        for message in submission.messages:
            await self._publish_retrying(message)
        submission.on_published()

    async def _publish_retrying(self, message: Outgoing) -> None:
        await self._retrying(partial(self._publish_message, message))

    async def _send_query(self, submission: FollowedSubmission) -> None:
        try:
            await self._retrying(partial(self._publish_message, submission.next_query()))
        except Unreachable:
            if submission.counts is None:
                raise

    async def _publish_message(self, message: Outgoing) -> None:
        await self._transport.publish(topology.SUBMISSIONS, self._key, message)

    async def _retrying(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        """Retry an operation until it succeeds: the manager may start after the client."""
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
            continue  # an event asks for nothing: an unreadable one is ignored
        if isinstance(message, TaskEvents | RunEvent | StatusReply):
            messages.append(message)
    return messages
