"""A RabbitMQ transport whose broker may_open no channel or reads nothing."""

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
from tests.support.event_loop import run_ready_tasks
from tests.support.fake_broker import FakeBroker


@pytest.fixture
async def broker() -> FakeBroker:
    return FakeBroker()


class FakeConnection:
    """Opens a channel after a test has set `may_open`; counts the requests for channels."""

    connected = True

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self.may_open = asyncio.Event()
        self.requests = 0

    async def channel(self, *, confirms: bool) -> tuple[AbstractChannel, FrameWriter]:
        self.requests += 1
        await self.may_open.wait()
        return self._broker.channel, self._broker.writer


@pytest.fixture
def connection(broker: FakeBroker) -> FakeConnection:
    return FakeConnection(broker)


@pytest.fixture
def transport(connection: FakeConnection, monkeypatch: pytest.MonkeyPatch) -> RabbitTransport:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.05)
    transport = RabbitTransport("amqp://localhost", app_id="app", connection_name="name")
    transport._connections = cast(Any, [connection])
    return transport


NOTE = Outgoing(b"", "note")


async def test_if_no_channel_opens_all_waiting_publishes_fail_at_the_same_time(
    transport: RabbitTransport, connection: FakeConnection
) -> None:
    outcomes = await asyncio.gather(
        *(transport.publish("x", "k", NOTE) for _ in range(10)),
        *(transport.publish_unconfirmed("x", "k", NOTE) for _ in range(10)),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {TransportError}
    assert connection.requests == 1
    connection.may_open.set()
    await transport.publish_unconfirmed("x", "k", NOTE)


async def test_publishes_wait_or_fail_while_the_broker_reads_nothing(
    transport: RabbitTransport, connection: FakeConnection, broker: FakeBroker
) -> None:
    connection.may_open.set()
    await transport.publish_unconfirmed("x", "k", NOTE)
    before = len(broker.writes)
    broker.unread = 2**30
    with pytest.raises(TransportError, match="takes nothing"):
        await transport.publish_unconfirmed("x", "k", NOTE)
    with pytest.raises(TransportError, match="did not answer in time"):
        await transport.publish("x", "k", NOTE)
    waiting = [asyncio.create_task(transport.publish("x", key, NOTE)) for key in "abc"]
    await run_ready_tasks()
    assert len(broker.writes) == before
    broker.read_all()
    waiting.append(asyncio.create_task(transport.publish("x", "late", NOTE)))
    await run_ready_tasks()
    await run_ready_tasks()
    keys = [
        one.routing_key for _, one in broker.received if isinstance(one, commands.Basic.Publish)
    ]
    assert keys[1:] == ["a", "b", "c", "late"]
    broker.send(commands.Basic.Ack(4, multiple=True))
    await asyncio.gather(*waiting)


async def test_bytes_that_are_buffered_in_this_loop_turn_count_as_unread(
    transport: RabbitTransport, connection: FakeConnection, broker: FakeBroker
) -> None:
    connection.may_open.set()
    large = Outgoing(b"x" * 2**20, "note")
    publishing = [asyncio.create_task(transport.publish("x", "k", large)) for _ in range(40)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(map(len, broker.writes)) + broker.writer._buffered_bytes < 18 * 2**20
    for task in publishing:
        task.cancel()
    await asyncio.gather(*publishing, return_exceptions=True)
