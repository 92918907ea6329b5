"""Consuming over channels that come and go: what is unacknowledged, and what may be acknowledged at once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import Protocol, Self

from skillq import timings
from skillq.errors import QueueInUse, TransportError, Unreachable
from skillq.transport.base import Delivery


class ConsumingChannel(Protocol):
    """What a session asks of its channel. None of it raises: a dead channel's deliveries come again."""

    async def ack(self, tag: int, *, multiple: bool) -> None: ...

    async def nack(self, tag: int, *, requeue: bool) -> None: ...

    async def close(self) -> None: ...


class ChannelSession:
    """The life of one consuming channel. Delivery tags count within it only."""

    def __init__(self, channel: ConsumingChannel) -> None:
        self.channel = channel
        self.ended = asyncio.Event()
        self.arrived: list[Delivery] = []
        self.changed = asyncio.Event()
        self._outstanding: dict[int, None] = {}

    def add_delivery(self, tag: int, delivery: Delivery) -> None:
        self._outstanding[tag] = None
        self.arrived.append(delivery)
        self.changed.set()

    def end(self) -> None:
        """Forget it all: the broker delivers it again."""
        self.ended.set()
        self._outstanding.clear()
        self.arrived.clear()
        self.changed.set()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        tags = {tag for one in deliveries if (tag := self._outstanding_tag(one)) is not None}
        # From the oldest on, one acknowledgement says it all; the rest goes singly.
        first = list(takewhile(tags.__contains__, self._outstanding))
        for tag in tags:
            del self._outstanding[tag]
        if first:
            await self.channel.ack(first[-1], multiple=len(first) > 1)
        for tag in sorted(tags.difference(first)):
            await self.channel.ack(tag, multiple=False)

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        tag = self._outstanding_tag(delivery)
        if tag is not None:
            del self._outstanding[tag]
            await self.channel.nack(tag, requeue=requeue)

    def _outstanding_tag(self, delivery: Delivery) -> int | None:
        """The tag of a delivery that is unacknowledged in this session."""
        if not isinstance(delivery.token, tuple):
            return None
        session, tag = delivery.token
        return tag if session is self and tag in self._outstanding else None


class ReconnectingConsumer:
    """See `skillq.transport.base.Consumer`. Begins a new session whenever one ends.

    `begin` opens a channel and consumes on it; `connected` waits until that makes sense.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[ChannelSession]],
        connected: Callable[[], Awaitable[None]],
    ) -> None:
        self._open_session = begin
        self._wait_until_connected = connected
        self._changed = asyncio.Event()
        self._refusal: QueueInUse | None = None
        self.closed = False

    async def open(self) -> Self:
        self._session = await self._open_session()
        self._session_task = asyncio.create_task(self._keep_session(), name="skillq consumer")
        return self

    @property
    def live(self) -> bool:
        return not self.closed and not self._session.ended.is_set()

    async def wait_until_live(self) -> None:
        """Wait until it has its queue again.

        Raises:
            TransportError: it never will.
        """
        while not self.live:
            self._check_open()
            self._changed.clear()
            await self._changed.wait()

    async def _keep_session(self) -> None:
        """Go on after the broker went away, the queue was deleted, or a delivery timed out."""
        while self._refusal is None:
            await self._session.ended.wait()
            await self._session.channel.close()
            ended = self._session
            try:
                self._session = await self._reopen_session()
            except QueueInUse as error:
                self._refusal = error
            self._changed.set()
            ended.changed.set()

    async def _reopen_session(self) -> ChannelSession:
        while True:
            try:
                await self._wait_until_connected()
                return await self._open_session()
            except QueueInUse:
                raise
            except (TransportError, Unreachable):
                await asyncio.sleep(timings.REOPEN_SECONDS)

    async def batch(self) -> list[Delivery]:
        while not (arrived := self._session.arrived):
            self._check_open()
            self._session.changed.clear()
            await self._session.changed.wait()
        self._session.arrived = []
        return arrived

    def _check_open(self) -> None:
        if self.closed:
            raise TransportError("the consumer was closed")
        if self._refusal is not None:
            raise QueueInUse(str(self._refusal)) from self._refusal

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._session.ack(deliveries)

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        await self._session.nack(delivery, requeue=requeue)

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._changed.set()
        self._session_task.cancel()
        await asyncio.wait([self._session_task])
        self._session.end()
        await self._session.channel.close()
