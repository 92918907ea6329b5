"""A transport whose broker opens no channel, or reads nothing."""

import asyncio
from typing import Any, cast

import pytest
from aiormq.abc import AbstractChannel
from pamqp import commands

from skillq import timings
from skillq.errors import TransportError
from skillq.transport import Outgoing
from skillq.transport.rabbitmq import RabbitTransport
from skillq.transport.rabbitmq.fastpath.channel import FrameWriter
from tests.unit.shared.far_end import FarEnd, turns


@pytest.fixture
async def far_end() -> FarEnd:
    return FarEnd()


class Connection:
    """A link whose channels are opened by `open`, if ever."""

    connected = True

    def __init__(self, far_end: FarEnd) -> None:
        self._far_end = far_end
        self.opens = asyncio.Event()
        self.asked = 0

    async def channel(self, *, confirms: bool) -> tuple[AbstractChannel, FrameWriter]:
        self.asked += 1
        await self.opens.wait()
        return self._far_end.channel, self._far_end.wire


@pytest.fixture
def connection(far_end: FarEnd) -> Connection:
    return Connection(far_end)


@pytest.fixture
def transport(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> RabbitTransport:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.05)
    transport = RabbitTransport("amqp://localhost", app_id="app", connection_name="name")
    transport._connections = cast(Any, [connection])
    return transport


NOTE = Outgoing(b"", "note")


async def test_where_no_channel_can_be_opened_all_who_wait_hear_so_at_the_same_time(
    transport: RabbitTransport, connection: Connection
) -> None:
    outcomes = await asyncio.gather(
        *(transport.publish("x", "k", NOTE) for _ in range(10)),
        *(transport.publish_unconfirmed("x", "k", NOTE) for _ in range(10)),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {TransportError}
    assert connection.asked == 1
    connection.opens.set()
    await transport.publish_unconfirmed("x", "k", NOTE)


async def test_while_the_broker_reads_nothing_no_more_is_written_than_so_much(
    transport: RabbitTransport, connection: Connection, far_end: FarEnd
) -> None:
    connection.opens.set()
    await transport.publish_unconfirmed("x", "k", NOTE)
    before = len(far_end.writes)
    far_end.unread = 2**30
    with pytest.raises(TransportError, match="takes nothing"):
        await transport.publish_unconfirmed("x", "k", NOTE)
    with pytest.raises(TransportError, match="did not answer in time"):
        await transport.publish("x", "k", NOTE)
    waiting = [asyncio.create_task(transport.publish("x", key, NOTE)) for key in "abc"]
    await turns()
    assert len(far_end.writes) == before
    far_end.read()
    waiting.append(asyncio.create_task(transport.publish("x", "late", NOTE)))
    await turns()
    await turns()
    keys = [one.routing_key for _, one in far_end.frames if isinstance(one, commands.Basic.Publish)]
    assert keys[1:] == ["a", "b", "c", "late"]
    far_end.says(commands.Basic.Ack(4, multiple=True))
    await asyncio.gather(*waiting)


async def test_what_waits_to_be_written_in_this_turn_counts_too(
    transport: RabbitTransport, connection: Connection, far_end: FarEnd
) -> None:
    connection.opens.set()
    large = Outgoing(b"x" * 2**20, "note")
    publishing = [asyncio.create_task(transport.publish("x", "k", large)) for _ in range(40)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(map(len, far_end.writes)) + far_end.wire._buffered_bytes < 18 * 2**20
    for task in publishing:
        task.cancel()
    await asyncio.gather(*publishing, return_exceptions=True)
