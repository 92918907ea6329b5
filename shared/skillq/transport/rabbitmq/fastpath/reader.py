"""Frames that go past the driver: read before it sees them, and written without it.

The driver connects, opens channels, declares and consumes. Messages, confirms and acknowledgements come by the
thousand and cost several times as much through its layers: they go straight between the socket and who waits.
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

_HEAD = struct.Struct(">BHI")  # kind, channel, size of the payload
AROUND = _HEAD.size + len(constants.FRAME_END_CHAR)
_HEARTBEAT = _HEAD.pack(constants.FRAME_HEARTBEAT, 0, 0) + constants.FRAME_END_CHAR


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _HEAD.pack(kind, channel, len(payload)) + payload + constants.FRAME_END_CHAR


def index_of(method: type[Frame]) -> bytes:
    """The bytes that a method begins with."""
    return struct.pack(">I", method.index)


_WITH_CONTENT = {index_of(method) for method in (Basic.Deliver, Basic.GetOk, Basic.Return)}
_LAST = {index_of(method) for method in (Channels.Close, Channels.CloseOk)}


class ChannelHandler(ABC):
    """What comes on one channel past the driver, put together to messages."""

    def __init__(self) -> None:
        self.ended = False  # the broker must hear no more on this channel
        self._method = self._header = b""
        self._parts: list[bytes] = []
        self._missing = 0

    def handle_frame(self, kind: int, payload: bytes) -> bool:
        """Take a frame, unless it is the driver's."""
        if kind == constants.FRAME_METHOD:
            if payload[:4] not in _WITH_CONTENT:
                return self.handle_method(payload[:4], payload)
            self._method = payload
            return True
        if kind == constants.FRAME_HEADER:
            self._header, self._parts = payload, []
            self._missing = int.from_bytes(payload[4:12])
        else:
            self._parts.append(payload)
            self._missing -= len(payload)
        if self._missing <= 0:
            body, self._parts = b"".join(self._parts), []  # not kept until the next one
            self.handle_message(self._method, self._header, body)
        return True

    def handle_method(self, index: bytes, payload: bytes) -> bool:
        """Take a method that brings no message, unless it is the driver's."""
        return False

    @abstractmethod
    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """Take a message, whole."""


class FrameReader(asyncio.StreamReader):
    """A stream reader, as the driver uses one, that is fed with what no lane takes."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[int, ChannelHandler] = {}
        self._rest = b""
        self._fed_at = time.monotonic()

    def at_eof(self) -> bool:
        """Never: the driver would end without a reason, where to read on fails with one."""
        return False

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # as transports call it
        left = self._handle_frames(self._rest + data)
        now = time.monotonic()
        if self.handlers and not left and now - self._fed_at > timings.DRIVER_HEARTBEAT_SECONDS:
            left = _HEARTBEAT  # or the driver takes a busy broker for a dead one
        if left:
            self._fed_at = now
            super().feed_data(left)

    def _handle_frames(self, data: bytes) -> bytes:
        """Give the lanes what is theirs; return what is the driver's."""
        if data.startswith(constants.AMQP):
            return data  # no frame: the broker speaks another version
        left: list[bytes] = []
        at, size = 0, len(data)
        while size - at >= AROUND:
            kind, channel, length = _HEAD.unpack_from(data, at)
            end = at + AROUND + length
            if end > size:
                break
            whole = data[end - 1] == constants.FRAME_END  # or else the driver complains of it
            if not whole or not self._is_handled(kind, channel, data[at + _HEAD.size : end - 1]):
                left.append(data[at:end])
            at = end
        self._rest = data[at:]
        return b"".join(left)

    def _is_handled(self, kind: int, channel: int, payload: bytes) -> bool:
        lane = self.handlers.get(channel)
        if lane is None:
            return False
        taken = lane.handle_frame(kind, payload)
        if not taken and payload[:4] in _LAST:
            lane.ended = True
            del self.handlers[channel]  # the driver may give its number to another one
        return taken
