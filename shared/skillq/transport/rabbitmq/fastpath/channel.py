"""The way to the broker past the driver, on the driver's own connections and channels."""

import asyncio
from abc import abstractmethod
from contextlib import suppress
from typing import Any

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel
from pamqp import frame
from pamqp.base import Frame

from skillq import timings
from skillq.errors import TransportError
from skillq.transport.rabbitmq.errors import translated
from skillq.transport.rabbitmq.fastpath.reader import ChannelHandler, FrameReader

_CROWD = 100
_MOST_BYTES = 16 * 1024 * 1024  # that wait to be written: a broker that has an alarm reads nothing


class FrameWriter:
    """Both directions of one connection."""

    def __init__(self, reader: FrameReader, writer: asyncio.StreamWriter) -> None:
        self.lanes = reader.handlers
        self._writer = writer
        self._following: list[bytes] | None = None
        self._unsent = 0  # bytes of it
        self._waiting = 0
        self._turns = asyncio.Lock()

    @property
    def wait_while_full(self) -> bool:
        """Whether so much waits to be written that the loop should have a turn."""
        return self._following is not None and len(self._following) >= _CROWD

    @property
    def is_full(self) -> bool:
        """Whether the broker is so slow that nothing more should be written now, or others wait for that."""
        return bool(self._waiting) or self._size > _MOST_BYTES

    @property
    def _size(self) -> int:
        size: int = self._writer.transport.get_write_buffer_size()
        return size + self._unsent

    async def drain(self) -> None:
        """Wait until it has read what was written; in turn, and each writes before the next one looks.

        Raises:
            TimeoutError: it does not.
            OSError: the connection was lost.
        """
        self._waiting += 1
        try:
            async with asyncio.timeout(timings.RPC_SECONDS), self._turns:
                while self._size > _MOST_BYTES:
                    await asyncio.sleep(0)
                    await self._writer.drain()
        finally:
            self._waiting -= 1

    @property
    def is_closing(self) -> bool:
        return self._writer.is_closing()

    def send(self, frames: bytes) -> None:
        """Write at once; what follows in the same turn of the loop is written together after it."""
        if self._following is not None:
            self._following.append(frames)
            self._unsent += len(frames)
        elif not self.is_closing:
            self._writer.write(frames)
            self._following = []
            asyncio.get_running_loop().call_soon(self._send_following)

    def _send_following(self) -> None:
        following, self._following = self._following, None
        self._unsent = 0
        if following:
            self.send(b"".join(following))


class FastChannel(ChannelHandler):
    """A channel, and the way past the driver on its connection."""

    def __init__(self, channel: AbstractChannel, wire: FrameWriter) -> None:
        super().__init__()
        self.channel = channel
        self.wire = wire
        wire.lanes[channel.number] = self
        channel.closing.add_done_callback(self._on_closing)

    def send(self, method: Frame) -> None:
        """Send it, unless the channel has ended: the broker would close the whole connection."""
        if not self.ended:
            self.wire.send(frame.marshal(method, self.channel.number))

    async def close(self) -> None:
        await close_channel(self.channel)

    @abstractmethod
    def on_closed(self, reason: Exception) -> None:
        """Nothing comes any more."""

    def _on_closing(self, closing: "asyncio.Future[Any]") -> None:
        self.ended = True
        reason = None if closing.cancelled() else closing.exception()
        # The driver cancels what it had on a dead connection, or says nothing of why.
        if not isinstance(reason, CONNECTION_EXCEPTIONS):
            reason = amqp.AMQPConnectionError("the connection to the broker was lost")
        self.on_closed(reason)


async def close_channel(channel: AbstractChannel) -> None:
    with suppress(TransportError), translated("close"):
        async with asyncio.timeout(timings.CLOSE_SECONDS):
            await channel.close()
