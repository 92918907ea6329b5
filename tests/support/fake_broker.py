"""The broker's end of one AMQP connection, for tests of the fast path."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from aiormq.abc import AbstractChannel
from pamqp import commands, frame, header
from pamqp.frame import FrameTypes

from skillq.transport.rabbitmq.fastpath.channel import FrameWriter
from skillq.transport.rabbitmq.fastpath.reader import FrameReader

CHANNEL = 3


class FakeBroker:
    """The broker's end of a connection, with reader, writer and driver's channel of our end."""

    def __init__(self, frame_max: int = 0) -> None:
        self.reader = FrameReader()
        self.writes: list[bytes] = []
        self.is_gone = False
        self.unread = 0  # bytes
        self._has_read = asyncio.Event()
        stream = SimpleNamespace(
            write=self.writes.append,
            is_closing=lambda: self.is_gone,
            drain=self._has_read.wait,
            transport=SimpleNamespace(get_write_buffer_size=lambda: self.unread),
        )
        self.writer = FrameWriter(self.reader, cast(asyncio.StreamWriter, stream))
        self.closing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        tune = SimpleNamespace(frame_max=frame_max)  # 0: no limit
        connection = SimpleNamespace(connection_tune=tune)
        channel = SimpleNamespace(number=CHANNEL, closing=self.closing, connection=connection)
        self.channel = cast(AbstractChannel, channel)

    def read_all(self) -> None:
        """Read the bytes in the write buffer, so that a waiting writer goes on."""
        self.unread = 0
        self._has_read.set()

    def send(self, *frames: FrameTypes) -> None:
        self.reader.feed_data(b"".join(frame.marshal(one, CHANNEL) for one in frames))

    def return_message(self, message_id: str, key: str = "k") -> None:
        """Return a message as unroutable."""
        properties = commands.Basic.Properties(message_id=message_id)
        self.send(
            commands.Basic.Return(312, "NO_ROUTE", "x", key),
            header.ContentHeader(0, 0, properties),
        )

    @property
    def received(self) -> list[tuple[int, FrameTypes]]:
        """The size in bytes and the content of each frame that our end has written."""
        found, data = [], b"".join(self.writes)
        while data:
            size, _, one = frame.unmarshal(data)
            found.append((size, one))
            data = data[size:]
        return found

    @property
    def received_names(self) -> list[str]:
        return [one.name for _, one in self.received]
