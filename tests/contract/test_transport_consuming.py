"""Every transport delivers, acknowledges and requeues messages in the same way."""

import asyncio

import pytest

from skillq.errors import QueueInUse, QueueNotFound, TransportError
from skillq.transport import Transport
from tests.contract.transports import (
    INBOX,
    SECONDS,
    Connect,
    close_and_expect,
    receive,
    send,
    texts,
)

# --- consuming --------------------------------------------------------------------------------


async def test_competing_consumers_share_the_messages(
    connect: Connect, transport: Transport
) -> None:
    first = await transport.consume(INBOX, prefetch=100)
    second = await (await connect()).consume(INBOX, prefetch=100)
    written = [str(n) for n in range(10)]
    await send(transport, *written)
    shares = [texts(await receive(consumer, 5)) for consumer in (first, second)]
    assert sorted(shares[0] + shares[1], key=int) == written


async def test_no_more_than_prefetch_messages_are_unacknowledged(transport: Transport) -> None:
    few = await transport.consume(INBOX, prefetch=2)
    await send(transport, "1", "2", "3", "4")
    held = await receive(few, 2)
    assert texts(held) == ["1", "2"]
    rest = await transport.consume(INBOX, prefetch=1)
    assert texts(await receive(rest, 1)) == ["3"]
    await few.ack(held[:1])
    assert texts(await receive(few, 1)) == ["4"]


async def test_acknowledged_messages_leave_the_queue(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=100)
    written = [str(n) for n in range(100)]
    await send(transport, *written)
    received = await receive(consumer, 100)
    assert texts(received) == written
    await consumer.ack(received)
    await close_and_expect(transport, consumer)


async def test_messages_that_are_not_acknowledged_are_delivered_again(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=100)
    await send(transport, "1", "2", "3", "4", "5", "6")
    received = await receive(consumer, 6)
    await consumer.ack([received[0], received[1], received[3]])
    await close_and_expect(transport, consumer, "3", "5", "6")


async def test_acknowledgements_may_come_in_any_order_and_twice(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=100)
    await send(transport, "1", "2", "3", "4")
    received = await receive(consumer, 4)
    await consumer.ack([received[2]])
    await consumer.ack([received[2], received[1]])
    await consumer.ack(received[:2])
    await consumer.ack([])
    await close_and_expect(transport, consumer, "4")


async def test_a_requeued_message_returns_to_its_position_and_is_marked_redelivered(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=2)
    await send(transport, "1", "2", "3")
    first, second = await receive(consumer, 2)
    await consumer.nack(second, requeue=True)
    [back] = await receive(consumer, 1)
    assert (back.body, back.redelivered) == (b"2", True)
    await consumer.ack([first])
    [last] = await receive(consumer, 1)
    assert (last.body, last.redelivered) == (b"3", False)


async def test_a_cancelled_wait_for_a_batch_loses_nothing(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    waiting = asyncio.create_task(consumer.batch())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await send(transport, "still here")
    assert texts(await receive(consumer, 1)) == ["still here"]


async def test_unacknowledged_deliveries_of_a_closed_consumer_go_to_another(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "1", "2", "3")
    await receive(consumer, 3)
    await consumer.close()
    await consumer.close()
    again = await receive(await transport.consume(INBOX, prefetch=10), 3)
    assert texts(again) == ["1", "2", "3"]
    assert all(delivery.redelivered for delivery in again)


async def test_unacknowledged_deliveries_of_a_closed_transport_go_to_another(
    connect: Connect, transport: Transport
) -> None:
    leaving = await connect()
    consumer = await leaving.consume(INBOX, prefetch=10)
    await send(transport, "1", "2", "3")
    received = await receive(consumer, 3)
    await consumer.ack(received[:1])
    await leaving.__aexit__(None, None, None)
    again = await receive(await transport.consume(INBOX, prefetch=10), 2)
    assert texts(again) == ["2", "3"]
    assert all(delivery.redelivered for delivery in again)


async def test_a_closed_consumer_is_an_error_for_a_waiting_and_for_a_new_call(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "1")
    [delivery] = await receive(consumer, 1)
    waiting = asyncio.create_task(consumer.batch())
    await asyncio.sleep(0)
    await consumer.close()
    for asking in (waiting, consumer.batch()):
        with pytest.raises(TransportError, match="closed"):
            async with asyncio.timeout(SECONDS):
                await asking
    await consumer.ack([delivery])
    await consumer.nack(delivery, requeue=True)


async def test_consuming_a_missing_queue_is_an_error_that_names_it_and_harms_no_other(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    with pytest.raises(QueueNotFound, match=r"t\.missing"):
        await transport.consume("t.missing", prefetch=10)
    await send(transport, "hello")
    assert texts(await receive(consumer, 1)) == ["hello"]


async def test_an_exclusive_consumer_excludes_others_until_it_is_closed(
    connect: Connect, transport: Transport
) -> None:
    only = await transport.consume(INBOX, prefetch=10, exclusive=True)
    other = await connect()
    for exclusive in (False, True):
        with pytest.raises(QueueInUse, match=INBOX):
            await other.consume(INBOX, prefetch=10, exclusive=exclusive)
    await send(transport, "hello")
    assert texts(await receive(only, 1)) == ["hello"]
    await only.close()
    assert texts(await receive(await other.consume(INBOX, prefetch=10), 1)) == ["hello"]


async def test_a_queue_with_a_consumer_cannot_be_consumed_exclusively(
    connect: Connect, transport: Transport
) -> None:
    await transport.consume(INBOX, prefetch=10)
    with pytest.raises(QueueInUse, match=INBOX):
        await (await connect()).consume(INBOX, prefetch=10, exclusive=True)
