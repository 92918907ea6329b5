"""A consumer that opens a new channel whenever the old one ends.

`ChannelSession` keeps the unacknowledged deliveries of one channel and acknowledges several at once.
`ReconnectingConsumer` replaces a session that has ended.
See docs/adr/0012-open-channels-on-robust-connections.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import Protocol, Self

from skillq import timings
from skillq.errors import QueueInUse, TransportError, Unreachable
from skillq.transport.base import Delivery


class ConsumingChannel(Protocol):
    """The channel of a session. No method raises: a dead channel's messages come again."""

    async def ack(self, tag: int, *, multiple: bool) -> None: ...

    async def nack(self, tag: int, *, requeue: bool) -> None: ...

    async def close(self) -> None: ...


class ChannelSession:
    """The deliveries of one channel. A delivery tag is valid only within its session."""

    def __init__(self, channel: ConsumingChannel) -> None:
        self.channel = channel
        self.ended = asyncio.Event()
        self.arrived: list[Delivery] = []
        self.changed = asyncio.Event()
        self._outstanding: dict[int, None] = {}

    def add_delivery(self, tag: int, delivery: Delivery) -> None:
        """Add a delivery that has arrived, and wake the consumer that waits for one."""
        self._outstanding[tag] = None
        self.arrived.append(delivery)
        self.changed.set()

    def end(self) -> None:
        """End this session and forget its deliveries: the broker delivers the messages again."""
        self.ended.set()
        self._outstanding.clear()
        self.arrived.clear()
        self.changed.set()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge those deliveries that are unacknowledged in this session."""
        tags = {tag for one in deliveries if (tag := self._outstanding_tag(one)) is not None}
        # One `multiple` acknowledgement covers the oldest ones up to a gap; each other one needs its own.
        oldest = list(takewhile(tags.__contains__, self._outstanding))
        for tag in tags:
            del self._outstanding[tag]
        if oldest:
            await self.channel.ack(oldest[-1], multiple=len(oldest) > 1)
        for tag in sorted(tags.difference(oldest)):
            await self.channel.ack(tag, multiple=False)

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        """Reject a delivery, if it is unacknowledged in this session."""
        tag = self._outstanding_tag(delivery)
        if tag is not None:
            del self._outstanding[tag]
            await self.channel.nack(tag, requeue=requeue)

    def _outstanding_tag(self, delivery: Delivery) -> int | None:
        """Return the tag of a delivery if it is unacknowledged in this session, else None."""
        if not isinstance(delivery.token, tuple):
            return None
        session, tag = delivery.token
        return tag if session is self and tag in self._outstanding else None


class ReconnectingConsumer:
    """Implements `skillq.transport.base.Consumer`; opens a new session whenever one ends.

    `open_session` opens a channel and consumes on it; `wait_until_connected` waits until the broker can be
    reached, so that another try makes sense.
    """

    def __init__(
        self,
        open_session: Callable[[], Awaitable[ChannelSession]],
        wait_until_connected: Callable[[], Awaitable[None]],
    ) -> None:
        self._open_session = open_session
        self._wait_until_connected = wait_until_connected
        self._changed = asyncio.Event()
        self._refusal: QueueInUse | None = None
        self.closed = False

    async def open(self) -> Self:
        """Open the first session and return this consumer.

        Raises:
            TransportError: as `open_session`; so do `Unreachable` and `QueueInUse`.
        """
        self._session = await self._open_session()
        self._session_task = asyncio.create_task(self._keep_session(), name="skillq consumer")
        return self

    @property
    def live(self) -> bool:
        return not self.closed and not self._session.ended.is_set()

    async def wait_until_live(self) -> None:
        """Wait until this consumer has its queue.

        Raises:
            TransportError: this consumer was closed, or another one has the queue exclusively.
        """
        while not self.live:
            self._check_open()
            self._changed.clear()
            await self._changed.wait()

    async def _keep_session(self) -> None:
        """Open a new session after an outage, a deleted queue, or a delivery that timed out."""
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
