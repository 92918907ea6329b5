"""What we rest on in RabbitMQ and its driver when messages go past it: neither minds."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from skillq.errors import TransportError
from skillq.transport import Transport
from skillq.transport.rabbitmq import RabbitTransport
from skillq.transport.rabbitmq.fastpath.reader import ChannelHandler
from skillq.transport.reconnecting import ReconnectingConsumer
from tests.contract.transports import INBOX, NEWS, inbox, note, send, take, texts

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]


@pytest.fixture
async def transport(broker_url: str) -> AsyncIterator[RabbitTransport]:
    # With a heartbeat of one second the driver takes a broker that is silent for six for dead.
    url = f"{broker_url}?heartbeat=1"
    async with RabbitTransport(url, app_id="tests", connection_name="tests") as transport:
        await transport.declare(inbox())
        yield transport


@pytest.fixture
async def same_connections(transport: RabbitTransport) -> AsyncIterator[None]:
    """At the end of the test the connections must be those of its beginning."""

    def now() -> list[object]:
        return [link._connection.transport for link in transport._connections]

    before = now()
    yield
    assert transport.connected
    assert now() == before


@pytest.mark.usefixtures("same_connections")
async def test_cancelled_publishes_harm_nobody_and_may_arrive(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=0)
    tasks = [asyncio.create_task(transport.publish(NEWS, "a", note(str(n)))) for n in range(100)]
    await consumer.batch()  # the first ones are there, others on their way
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[1::2] == [None] * 50
    await send(transport, "after")


@pytest.mark.usefixtures("same_connections")
async def test_what_a_full_queue_refuses_is_an_error_and_the_others_arrive(
    transport: RabbitTransport,
) -> None:
    await transport._delete_queue(INBOX)
    await transport.declare(inbox(x_max_length=2, x_overflow="reject-publish"))
    outcomes = await asyncio.gather(
        *(transport.publish(NEWS, "a", note(str(n))) for n in range(20)), return_exceptions=True
    )
    assert {type(one) for one in outcomes} == {type(None), TransportError}
    consumer = await transport.consume(INBOX, prefetch=0)
    taken = [str(n) for n, outcome in enumerate(outcomes) if outcome is None]
    assert texts(await take(consumer, len(taken))) == taken


@pytest.mark.usefixtures("same_connections")
async def test_a_channel_that_the_broker_closes_takes_no_other_with_it_however_much_is_acknowledged(
    transport: RabbitTransport,
) -> None:
    closed, other = [await transport.consume(INBOX, prefetch=50) for _ in range(2)]
    assert isinstance(closed, ReconnectingConsumer)
    await asyncio.gather(*(send(transport, str(n)) for n in range(100)))
    mine, others = await take(closed, 50), await take(other, 50)
    session = closed._session
    await session.channel.ack(999, multiple=False)  # there is no such tag
    while not session.ended.is_set():
        if cast(ChannelHandler, session.channel).ended:
            await closed.ack([mine.pop()])
        await asyncio.sleep(0)
    assert len(mine) < 50, "there was nothing to acknowledge in between"
    await other.ack(others)
    await closed.wait_until_live()
    await send(transport, "after")


@pytest.mark.usefixtures("same_connections")
async def test_a_broker_that_sends_only_messages_and_confirms_is_not_taken_for_dead(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=0)
    loop = asyncio.get_running_loop()
    end = loop.time() + 8
    while loop.time() < end:
        await send(transport, "hello")
        await consumer.ack(await take(consumer, 1))
        await asyncio.sleep(0.05)


async def test_what_was_acknowledged_before_the_consumer_was_closed_is_gone(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=0)
    await asyncio.gather(*(send(transport, str(n)) for n in range(100)))
    for delivery in await take(consumer, 100):
        await consumer.ack([delivery])
    await consumer.close()
    again = await transport.consume(INBOX, prefetch=0)
    await send(transport, "the last")
    assert texts(await take(again, 1)) == ["the last"]


async def test_who_tells_much_without_a_pause_lets_others_run(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=0)
    await transport.publish_unconfirmed(NEWS, "a", note("0"))  # its channel is open
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for n in range(1, 1000):
        await transport.publish_unconfirmed(NEWS, "a", note(str(n)))
    assert turns > 5
    task.cancel()
    assert texts(await take(consumer, 1000)) == [str(n) for n in range(1000)]
