"""The other end of a connection, as far as messages go past the driver."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from aiormq.abc import AbstractChannel
from pamqp import commands, frame, header
from pamqp.frame import FrameTypes

from skillq.transport.rabbitmq.fastpath.channel import FrameWriter
from skillq.transport.rabbitmq.fastpath.reader import FrameReader

CHANNEL = 3


class FarEnd:
    """The other end of a connection, and the driver's channel on it."""

    def __init__(self, frame_max: int = 0) -> None:
        self.reader = FrameReader()
        self.writes: list[bytes] = []
        self.gone = False
        self.unread = 0  # bytes
        self._reads = asyncio.Event()
        writer = SimpleNamespace(
            write=self.writes.append,
            is_closing=lambda: self.gone,
            drain=self._reads.wait,
            transport=SimpleNamespace(get_write_buffer_size=lambda: self.unread),
        )
        self.wire = FrameWriter(self.reader, cast(asyncio.StreamWriter, writer))
        self.closing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        tune = SimpleNamespace(frame_max=frame_max)  # 0: no limit
        connection = SimpleNamespace(connection_tune=tune)
        channel = SimpleNamespace(number=CHANNEL, closing=self.closing, connection=connection)
        self.channel = cast(AbstractChannel, channel)

    def read(self) -> None:
        self.unread = 0
        self._reads.set()

    def says(self, *said: FrameTypes) -> None:
        self.reader.feed_data(b"".join(frame.marshal(one, CHANNEL) for one in said))

    def returns(self, message_id: str, key: str = "k") -> None:
        properties = commands.Basic.Properties(message_id=message_id)
        self.says(
            commands.Basic.Return(312, "NO_ROUTE", "x", key),
            header.ContentHeader(0, 0, properties),
        )

    @property
    def frames(self) -> list[tuple[int, FrameTypes]]:
        """Those that were written, with their sizes."""
        found, data = [], b"".join(self.writes)
        while data:
            size, _, one = frame.unmarshal(data)
            found.append((size, one))
            data = data[size:]
        return found

    @property
    def heard(self) -> list[str]:
        return [one.name for _, one in self.frames]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
