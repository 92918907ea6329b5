"""Reading of frames before the driver: messages and confirms never reach the driver.

The driver connects, opens channels, declares queues and starts consumers. Messages, confirms and
acknowledgements are far more frequent, and cost several times as much in the driver's layers. A `FrameReader`
passes their frames to the `ChannelHandler` of their channel, and all other frames to the driver.

See docs/adr/0018-pass-messages-by-the-driver.md.
"""

import asyncio
import struct
import time
from abc import ABC, abstractmethod

from pamqp import constants
from pamqp.base import Frame
from pamqp.commands import Basic
from pamqp.commands import Channel as Channels

from skillq import timings

_FRAME_HEAD = struct.Struct(">BHI")  # type, channel, size of the payload
FRAME_OVERHEAD = _FRAME_HEAD.size + len(constants.FRAME_END_CHAR)
_HEARTBEAT = _FRAME_HEAD.pack(constants.FRAME_HEARTBEAT, 0, 0) + constants.FRAME_END_CHAR


def make_frame(frame_type: int, channel: int, payload: bytes) -> bytes:
    """Return a frame as bytes: head, payload and end mark."""
    return _FRAME_HEAD.pack(frame_type, channel, len(payload)) + payload + constants.FRAME_END_CHAR


def method_index(method: type[Frame]) -> bytes:
    """Return the four bytes with which the payload of a method begins."""
    return struct.pack(">I", method.index)


_WITH_CONTENT = {method_index(method) for method in (Basic.Deliver, Basic.GetOk, Basic.Return)}
_CHANNEL_ENDS = {method_index(method) for method in (Channels.Close, Channels.CloseOk)}


class ChannelHandler(ABC):
    """Handles the frames of one channel, and joins the frames of a message."""

    def __init__(self) -> None:
        self.ended = False  # nothing may be sent on this channel after its end
        self._method = self._header = b""
        self._parts: list[bytes] = []
        self._missing_bytes = 0

    def handle_frame(self, frame_type: int, payload: bytes) -> bool:
        """Handle a frame; return False if the driver must handle the frame."""
        if frame_type == constants.FRAME_METHOD:
            if payload[:4] not in _WITH_CONTENT:
                return self.handle_method(payload[:4], payload)
            self._method = payload
            return True
        if frame_type == constants.FRAME_HEADER:
            self._header, self._parts = payload, []
            self._missing_bytes = int.from_bytes(payload[4:12])
        else:
            self._parts.append(payload)
            self._missing_bytes -= len(payload)
        if self._missing_bytes <= 0:
            body, self._parts = b"".join(self._parts), []  # free the memory before the next message
            self.handle_message(self._method, self._header, body)
        return True

    def handle_method(self, index: bytes, payload: bytes) -> bool:
        """Handle a method without a message; return False if the driver must handle the method."""
        return False

    @abstractmethod
    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """Handle a complete message: its method, its content header and its body."""


class FrameReader(asyncio.StreamReader):
    """The driver's stream reader: it contains only the frames that no channel handler handles."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[int, ChannelHandler] = {}
        self._incomplete = b""
        self._driver_fed_at = time.monotonic()

    def at_eof(self) -> bool:
        """Return False: so the driver reads on, and fails with a reason."""
        return False

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # transports pass bytes
        """Pass frames to the channel handlers; give the rest to the driver."""
        for_driver = self._handle_frames(self._incomplete + data)
        now = time.monotonic()
        if (
            self.handlers
            and not for_driver
            and now - self._driver_fed_at > timings.DRIVER_HEARTBEAT_SECONDS
        ):
            # Without any frame, the driver would take a busy broker for a dead one.
            for_driver = _HEARTBEAT
        if for_driver:
            self._driver_fed_at = now
            super().feed_data(for_driver)

    def _handle_frames(self, data: bytes) -> bytes:
        """Pass frames to the channel handlers; return the bytes that are for the driver."""
        if data.startswith(constants.AMQP):
            return data  # not a frame: the broker requires another version of AMQP
        for_driver: list[bytes] = []
        start, size = 0, len(data)
        while size - start >= FRAME_OVERHEAD:
            frame_type, channel, length = _FRAME_HEAD.unpack_from(data, start)
            end = start + FRAME_OVERHEAD + length
            if end > size:
                break
            # The driver reports a frame that does not end with the end mark.
            whole = data[end - 1] == constants.FRAME_END
            if not whole or not self._offer_to_handler(
                frame_type, channel, data[start + _FRAME_HEAD.size : end - 1]
            ):
                for_driver.append(data[start:end])
            start = end
        self._incomplete = data[start:]
        return b"".join(for_driver)

    def _offer_to_handler(self, frame_type: int, channel: int, payload: bytes) -> bool:
        handler = self.handlers.get(channel)
        if handler is None:
            return False
        handled = handler.handle_frame(frame_type, payload)
        if not handled and payload[:4] in _CHANNEL_ENDS:
            handler.ended = True
            del self.handlers[channel]  # the driver may reuse the number for another channel
        return handled
