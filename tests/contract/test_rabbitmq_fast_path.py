"""RabbitMQ and its driver allow messages that go past the driver."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from skillq.errors import TransportError
from skillq.transport import Transport
from skillq.transport.rabbitmq import RabbitTransport
from skillq.transport.rabbitmq.fastpath.reader import ChannelHandler
from skillq.transport.reconnecting import ReconnectingConsumer
from tests.contract.transports import (
    EXCHANGE,
    INBOX,
    inbox_topology,
    receive,
    send,
    text_message,
    texts,
)

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]


@pytest.fixture
async def transport(broker_url: str) -> AsyncIterator[RabbitTransport]:
    # With a heartbeat of one second, the driver closes a connection that is silent for six seconds.
    url = f"{broker_url}?heartbeat=1"
    async with RabbitTransport(url, app_id="tests", connection_name="tests") as transport:
        await transport.declare(inbox_topology())
        yield transport


@pytest.fixture
async def same_connections(transport: RabbitTransport) -> AsyncIterator[None]:
    """Check that the test has not replaced a connection."""

    def driver_transports() -> list[object]:
        return [link._connection.transport for link in transport._connections]

    before = driver_transports()
    yield
    assert transport.connected
    assert driver_transports() == before


@pytest.mark.usefixtures("same_connections")
async def test_cancelled_publishes_may_arrive_and_harm_no_others(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=0)
    tasks = [
        asyncio.create_task(transport.publish(EXCHANGE, "a", text_message(str(n))))
        for n in range(100)
    ]
    await consumer.batch()  # the first messages have arrived, others have not
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[1::2] == [None] * 50
    await send(transport, "after")


@pytest.mark.usefixtures("same_connections")
async def test_a_message_that_a_full_queue_refuses_is_an_error_and_the_others_arrive(
    transport: RabbitTransport,
) -> None:
    await transport._delete_queue(INBOX)
    await transport.declare(inbox_topology(x_max_length=2, x_overflow="reject-publish"))
    outcomes = await asyncio.gather(
        *(transport.publish(EXCHANGE, "a", text_message(str(n))) for n in range(20)),
        return_exceptions=True,
    )
    assert {type(one) for one in outcomes} == {type(None), TransportError}
    consumer = await transport.consume(INBOX, prefetch=0)
    accepted = [str(n) for n, outcome in enumerate(outcomes) if outcome is None]
    assert texts(await receive(consumer, len(accepted))) == accepted


@pytest.mark.usefixtures("same_connections")
async def test_late_acknowledgements_on_a_closed_channel_do_not_harm_other_channels(
    transport: RabbitTransport,
) -> None:
    closed, other = [await transport.consume(INBOX, prefetch=50) for _ in range(2)]
    assert isinstance(closed, ReconnectingConsumer)
    await asyncio.gather(*(send(transport, str(n)) for n in range(100)))
    own, others = await receive(closed, 50), await receive(other, 50)
    session = closed._session
    await session.channel.ack(999, multiple=False)  # there is no such tag
    while not session.ended.is_set():
        if cast(ChannelHandler, session.channel).ended:
            await closed.ack([own.pop()])
        await asyncio.sleep(0)
    assert len(own) < 50, "some messages should be acknowledged in between"
    await other.ack(others)
    await closed.wait_until_live()
    await send(transport, "after")


@pytest.mark.usefixtures("same_connections")
async def test_a_broker_that_sends_no_heartbeats_but_messages_keeps_its_connection(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=0)
    loop = asyncio.get_running_loop()
    end = loop.time() + 8
    while loop.time() < end:
        await send(transport, "hello")
        await consumer.ack(await receive(consumer, 1))
        await asyncio.sleep(0.05)


async def test_messages_acknowledged_before_the_consumer_was_closed_leave_the_queue(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=0)
    await asyncio.gather(*(send(transport, str(n)) for n in range(100)))
    for delivery in await receive(consumer, 100):
        await consumer.ack([delivery])
    await consumer.close()
    again = await transport.consume(INBOX, prefetch=0)
    await send(transport, "the last")
    assert texts(await receive(again, 1)) == ["the last"]


async def test_many_unconfirmed_publishes_let_other_coroutines_run(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=0)
    await transport.publish_unconfirmed(EXCHANGE, "a", text_message("0"))  # its channel is open
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for n in range(1, 1000):
        await transport.publish_unconfirmed(EXCHANGE, "a", text_message(str(n)))
    assert turns > 5
    task.cancel()
    assert texts(await receive(consumer, 1000)) == [str(n) for n in range(1000)]
