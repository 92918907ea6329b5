"""What every transport promises to consumers."""

import asyncio

import pytest

from skillq.errors import QueueInUse, QueueNotFound, TransportError
from skillq.transport import Transport
from tests.contract.transports import INBOX, SECONDS, Join, only_left, send, take, texts

# --- consuming --------------------------------------------------------------------------------


async def test_competing_consumers_share_the_messages(join: Join, transport: Transport) -> None:
    first = await transport.consume(INBOX, prefetch=100)
    second = await (await join()).consume(INBOX, prefetch=100)
    written = [str(n) for n in range(10)]
    await send(transport, *written)
    shares = [texts(await take(consumer, 5)) for consumer in (first, second)]
    assert sorted(shares[0] + shares[1], key=int) == written


async def test_no_more_than_prefetch_messages_are_unacknowledged(transport: Transport) -> None:
    few = await transport.consume(INBOX, prefetch=2)
    await send(transport, "1", "2", "3", "4")
    held = await take(few, 2)
    assert texts(held) == ["1", "2"]
    rest = await transport.consume(INBOX, prefetch=1)
    assert texts(await take(rest, 1)) == ["3"]
    await few.ack(held[:1])
    assert texts(await take(few, 1)) == ["4"]


async def test_what_is_acknowledged_is_gone(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=100)
    written = [str(n) for n in range(100)]
    await send(transport, *written)
    taken = await take(consumer, 100)
    assert texts(taken) == written
    await consumer.ack(taken)
    await only_left(transport, consumer)


async def test_acknowledging_some_leaves_the_others_to_be_delivered_again(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=100)
    await send(transport, "1", "2", "3", "4", "5", "6")
    taken = await take(consumer, 6)
    await consumer.ack([taken[0], taken[1], taken[3]])
    await only_left(transport, consumer, "3", "5", "6")


async def test_acknowledgements_may_come_in_any_order_and_twice(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=100)
    await send(transport, "1", "2", "3", "4")
    taken = await take(consumer, 4)
    await consumer.ack([taken[2]])
    await consumer.ack([taken[2], taken[1]])
    await consumer.ack(taken[:2])
    await consumer.ack([])
    await only_left(transport, consumer, "4")


async def test_a_requeued_message_comes_back_to_its_place_and_says_so(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=2)
    await send(transport, "1", "2", "3")
    first, second = await take(consumer, 2)
    await consumer.nack(second, requeue=True)
    [back] = await take(consumer, 1)
    assert (back.body, back.redelivered) == (b"2", True)
    await consumer.ack([first])
    [last] = await take(consumer, 1)
    assert (last.body, last.redelivered) == (b"3", False)


async def test_a_cancelled_wait_for_a_batch_loses_nothing(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    waiting = asyncio.create_task(consumer.batch())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await send(transport, "still here")
    assert texts(await take(consumer, 1)) == ["still here"]


async def test_closing_a_consumer_gives_its_open_deliveries_to_another(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "1", "2", "3")
    await take(consumer, 3)
    await consumer.close()
    await consumer.close()
    again = await take(await transport.consume(INBOX, prefetch=10), 3)
    assert texts(again) == ["1", "2", "3"]
    assert all(delivery.redelivered for delivery in again)


async def test_closing_a_transport_gives_its_open_deliveries_to_another(
    join: Join, transport: Transport
) -> None:
    leaving = await join()
    consumer = await leaving.consume(INBOX, prefetch=10)
    await send(transport, "1", "2", "3")
    taken = await take(consumer, 3)
    await consumer.ack(taken[:1])
    await leaving.__aexit__(None, None, None)
    again = await take(await transport.consume(INBOX, prefetch=10), 2)
    assert texts(again) == ["2", "3"]
    assert all(delivery.redelivered for delivery in again)


async def test_a_closed_consumer_says_so_to_who_waits_and_to_who_asks(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "1")
    [delivery] = await take(consumer, 1)
    waiting = asyncio.create_task(consumer.batch())
    await asyncio.sleep(0)
    await consumer.close()
    for asking in (waiting, consumer.batch()):
        with pytest.raises(TransportError, match="closed"):
            async with asyncio.timeout(SECONDS):
                await asking
    await consumer.ack([delivery])
    await consumer.nack(delivery, requeue=True)


async def test_a_queue_that_is_not_there_is_named_and_does_no_harm_to_others(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    with pytest.raises(QueueNotFound, match=r"t\.missing"):
        await transport.consume("t.missing", prefetch=10)
    await send(transport, "hello")
    assert texts(await take(consumer, 1)) == ["hello"]


async def test_an_exclusive_consumer_keeps_others_out_until_it_goes(
    join: Join, transport: Transport
) -> None:
    only = await transport.consume(INBOX, prefetch=10, exclusive=True)
    other = await join()
    for exclusive in (False, True):
        with pytest.raises(QueueInUse, match=INBOX):
            await other.consume(INBOX, prefetch=10, exclusive=exclusive)
    await send(transport, "hello")
    assert texts(await take(only, 1)) == ["hello"]
    await only.close()
    assert texts(await take(await other.consume(INBOX, prefetch=10), 1)) == ["hello"]


async def test_nobody_gets_exclusive_what_another_consumes(
    join: Join, transport: Transport
) -> None:
    await transport.consume(INBOX, prefetch=10)
    with pytest.raises(QueueInUse, match=INBOX):
        await (await join()).consume(INBOX, prefetch=10, exclusive=True)
