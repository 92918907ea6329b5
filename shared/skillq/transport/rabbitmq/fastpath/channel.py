"""Writing frames past the driver, on the driver's own connections and channels.

See docs/adr/0018-pass-messages-by-the-driver.md.
"""

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
from skillq.transport.rabbitmq.errors import translate_driver_errors
from skillq.transport.rabbitmq.fastpath.reader import ChannelHandler, FrameReader

_MANY_FRAMES = 100
_MAX_UNSENT_BYTES = 16 * 1024 * 1024  # a broker with an alarm reads nothing


class FrameWriter:
    """Writes frames to one connection, and registers the handlers of frames that it receives."""

    def __init__(self, reader: FrameReader, writer: asyncio.StreamWriter) -> None:
        self.handlers = reader.handlers
        self._writer = writer
        # Frames for one write at the end of this pass of the event loop; None if none was sent yet.
        self._buffered: list[bytes] | None = None
        self._buffered_bytes = 0
        self._drain_waiters = 0
        self._drain_lock = asyncio.Lock()

    @property
    def should_yield(self) -> bool:
        """Return whether so many frames are buffered that the caller should let the loop run."""
        return self._buffered is not None and len(self._buffered) >= _MANY_FRAMES

    @property
    def is_full(self) -> bool:
        """Return whether too many bytes are unsent, or other callers wait in `drain`."""
        return bool(self._drain_waiters) or self._unsent_bytes > _MAX_UNSENT_BYTES

    @property
    def _unsent_bytes(self) -> int:
        size: int = self._writer.transport.get_write_buffer_size()
        return size + self._buffered_bytes

    async def drain(self) -> None:
        """Wait until the broker has read enough of the unsent bytes.

        Callers wait in order. Each caller can write before the next caller checks the unsent bytes.

        Raises:
            TimeoutError: The broker did not read enough within `timings.RPC_SECONDS`.
            OSError: The connection was lost.
        """
        self._drain_waiters += 1
        try:
            async with asyncio.timeout(timings.RPC_SECONDS), self._drain_lock:
                while self._unsent_bytes > _MAX_UNSENT_BYTES:
                    await asyncio.sleep(0)
                    await self._writer.drain()
        finally:
            self._drain_waiters -= 1

    @property
    def is_closing(self) -> bool:
        """Return whether the connection is closed or is being closed."""
        return self._writer.is_closing()

    def send(self, frames: bytes) -> None:
        """Write frames: the first in a pass of the event loop at once, later frames together."""
        if self._buffered is not None:
            self._buffered.append(frames)
            self._buffered_bytes += len(frames)
        elif not self.is_closing:
            self._writer.write(frames)
            self._buffered = []
            asyncio.get_running_loop().call_soon(self._send_buffered)

    def _send_buffered(self) -> None:
        buffered, self._buffered = self._buffered, None
        self._buffered_bytes = 0
        if buffered:
            self.send(b"".join(buffered))


class FastChannel(ChannelHandler):
    """A channel of the driver whose messages are sent and received past the driver."""

    def __init__(self, channel: AbstractChannel, writer: FrameWriter) -> None:
        super().__init__()
        self.channel = channel
        self.writer = writer
        writer.handlers[channel.number] = self
        channel.closing.add_done_callback(self._on_closing)

    def send(self, method: Frame) -> None:
        """Send a method, but only while the channel is open.

        A frame on an ended channel would make the broker close the whole connection.
        """
        if not self.ended:
            self.writer.send(frame.marshal(method, self.channel.number))

    async def close(self) -> None:
        """Close the channel. Errors of the broker are ignored."""
        await close_channel(self.channel)

    @abstractmethod
    def on_closed(self, reason: Exception) -> None:
        """React to the end of the channel: no frame arrives after this call."""

    def _on_closing(self, closing: "asyncio.Future[Any]") -> None:
        self.ended = True
        reason = None if closing.cancelled() else closing.exception()
        # For a lost connection the driver cancels the future or gives no reason.
        if not isinstance(reason, CONNECTION_EXCEPTIONS):
            reason = amqp.AMQPConnectionError("the connection to the broker was lost")
        self.on_closed(reason)


async def close_channel(channel: AbstractChannel) -> None:
    """Close a channel of the driver. Errors of the broker are ignored."""
    with suppress(TransportError), translate_driver_errors("close"):
        async with asyncio.timeout(timings.CLOSE_SECONDS):
            await channel.close()
