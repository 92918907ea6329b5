"""Every transport routes messages and keeps their contents in the same way."""

import asyncio
from contextlib import suppress

import pytest

from skillq.errors import TransportError, UnroutableMessage
from skillq.messages import MAX_MESSAGE_BYTES, Probe
from skillq.topology import (
    Binding,
    Queue,
    Topology,
)
from skillq.transport import Delivery, Outgoing, Transport
from tests.contract.transports import (
    EXCHANGE,
    INBOX,
    Connect,
    inbox_topology,
    receive,
    send,
    text_message,
    texts,
)

# --- routing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("a.*", "a.b"),
        ("*.b", "a.b"),
        ("*", "a"),
        ("a.*.c", "a.b.c"),
        ("#", "a"),
        ("#", "a.b.c"),
        ("a.#", "a"),
        ("a.#", "a.b.c"),
        ("#.c", "a.b.c"),
        ("a.#.d", "a.d"),
        ("a.#.d", "a.b.c.d"),
        ("a.*.#", "a.b"),
        ("a.b", "a.b"),
    ],
)
async def test_a_message_whose_key_matches_the_binding_is_delivered(
    connect: Connect, pattern: str, key: str
) -> None:
    transport = await connect()
    await transport.declare(inbox_topology(pattern))
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "hello", key=key)
    [delivery] = await receive(consumer, 1)
    assert (delivery.exchange, delivery.routing_key, delivery.queue) == (EXCHANGE, key, INBOX)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("a.*", "a"),
        ("a.*", "a.b.c"),
        ("*", "a.b"),
        ("*.b", "a.c"),
        ("a.#", "b.a"),
        ("#.c", "a.b"),
        ("a.*.#", "a"),
        ("a.b", "a.bc"),
        ("a.b", "a"),
    ],
)
async def test_a_message_whose_key_does_not_match_the_binding_is_returned(
    connect: Connect, pattern: str, key: str
) -> None:
    transport = await connect()
    await transport.declare(inbox_topology(pattern))
    with pytest.raises(UnroutableMessage, match=key.replace(".", r"\.")):
        await send(transport, "hello", key=key)


async def test_a_message_reaches_every_bound_queue_once(transport: Transport) -> None:
    other = Queue("t.other", {"x-queue-type": "classic"})
    keys = ("a.*", "*.b", "#")
    await transport.declare(
        Topology(
            queues=(other,), bindings=tuple(Binding(EXCHANGE, key, other.name) for key in keys)
        )
    )
    consumers = [await transport.consume(name, prefetch=10) for name in (INBOX, other.name)]
    await send(transport, "one", "two")
    for consumer in consumers:
        assert texts(await receive(consumer, 2)) == ["one", "two"]


async def test_an_unroutable_message_is_returned_and_the_others_are_delivered(
    connect: Connect,
) -> None:
    transport = await connect()
    await transport.declare(inbox_topology("good.*"))
    consumer = await transport.consume(INBOX, prefetch=200)
    keys = [f"good.{n}" if n != 25 else "bad.25" for n in range(50)]
    outcomes = await asyncio.gather(
        *(transport.publish(EXCHANGE, key, text_message(key)) for key in keys),
        return_exceptions=True,
    )
    assert isinstance(outcomes.pop(25), UnroutableMessage)
    assert outcomes == [None] * 49
    assert texts(await receive(consumer, 49)) == [key for key in keys if key != "bad.25"]


async def test_unconfirmed_messages_arrive_in_order_or_are_dropped_if_unroutable(
    connect: Connect,
) -> None:
    transport = await connect()
    await transport.declare(inbox_topology("good.*"))
    consumer = await transport.consume(INBOX, prefetch=200)
    fresh = await connect()
    keys = [f"{kind}.{n}" for n in range(50) for kind in ("good", "bad")]
    async with asyncio.TaskGroup() as group:
        first, *_ = [
            group.create_task(fresh.publish_unconfirmed(EXCHANGE, key, text_message(key)))
            for key in keys[:50]
        ]
        await first  # the others wait until its channel is open
        for key in keys[50:]:
            group.create_task(fresh.publish_unconfirmed(EXCHANGE, key, text_message(key)))
    assert texts(await receive(consumer, 50)) == [key for key in keys if key.startswith("good")]


async def test_unconfirmed_messages_sent_before_the_transport_was_closed_arrive(
    connect: Connect,
) -> None:
    transport = await connect()
    await transport.declare(inbox_topology("good.*"))
    consumer = await transport.consume(INBOX, prefetch=200)
    leaving = await connect()
    for number in range(100):
        await leaving.publish_unconfirmed(EXCHANGE, f"good.{number}", text_message(str(number)))
    await leaving.__aexit__(None, None, None)
    assert texts(await receive(consumer, 100)) == [str(number) for number in range(100)]


async def test_an_unconfirmed_message_to_a_missing_exchange_is_lost_and_the_next_arrives(
    connect: Connect,
) -> None:
    transport = await connect()
    await transport.declare(inbox_topology("good.*"))
    consumer = await transport.consume(INBOX, prefetch=10)
    with suppress(TransportError):
        await transport.publish_unconfirmed("t.missing", "good.1", text_message("lost"))

    async def delivered() -> list[Delivery]:
        """Publish again and again: no signal shows when the broker has closed the first channel."""
        while True:
            with suppress(TransportError, TimeoutError):
                await transport.publish_unconfirmed(EXCHANGE, "good.2", text_message("delivered"))
                async with asyncio.timeout(0.2):
                    return await consumer.batch()

    assert set(texts(await delivered())) == {"delivered"}


async def test_publishing_to_a_missing_exchange_is_an_error_and_the_next_publish_works(
    transport: Transport,
) -> None:
    with pytest.raises(TransportError, match=r"t\.missing"):
        await transport.publish("t.missing", "a", text_message("lost"))
    await send(transport, "found")
    assert texts(await receive(await transport.consume(INBOX, prefetch=10), 1)) == ["found"]


# --- contents of a message --------------------------------------------------------------------


async def test_body_type_id_headers_and_sender_arrive_as_they_were_sent(connect: Connect) -> None:
    transport = await connect("sender")
    await transport.declare(inbox_topology())
    consumer = await (await connect("receiver")).consume(INBOX, prefetch=10)
    sent = Outgoing(b"\x00\xff{}", "note", {"words": "ä", "number": 2**40, "negative": -1}, "id-7")
    await transport.publish(EXCHANGE, "a", sent)
    [got] = await receive(consumer, 1)
    assert (got.body, got.type, got.message_id) == (sent.body, "note", "id-7")
    assert (got.headers, got.app_id) == (sent.headers, "sender")
    assert not got.redelivered


async def test_a_message_carries_the_type_and_schema_version_of_its_model(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    await transport.publish(EXCHANGE, "a", Outgoing.from_message(Probe(), persistent=False))
    [got] = await receive(consumer, 1)
    assert (got.type, got.headers) == ("probe", {"schema_version": 1})


async def test_a_message_of_the_largest_size_arrives_complete(transport: Transport) -> None:
    body = bytes(range(256)) * (MAX_MESSAGE_BYTES // 256)
    consumer = await transport.consume(INBOX, prefetch=10)
    await transport.publish(EXCHANGE, "a", Outgoing(body, "note"))
    [got] = await receive(consumer, 1)
    assert got.body == body


async def test_concurrent_publishes_keep_their_order(transport: Transport) -> None:
    written = [str(n) for n in range(500)]
    await asyncio.gather(
        *(transport.publish(EXCHANGE, "a", text_message(text)) for text in written)
    )
    consumer = await transport.consume(INBOX, prefetch=0)
    assert texts(await receive(consumer, 500)) == written


async def test_a_busy_publisher_and_a_busy_consumer_let_other_coroutines_run(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for n in range(300):
        await send(transport, str(n))
    after_publishing = turns
    for _ in range(30):
        await consumer.ack(await receive(consumer, 10))
    task.cancel()
    assert 0 < after_publishing < turns
