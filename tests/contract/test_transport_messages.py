"""What every transport promises of routing, and of what a message carries."""

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
from tests.contract.transports import INBOX, NEWS, Join, inbox, note, send, take, texts

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
async def test_a_key_that_fits_the_binding_key_is_delivered(
    join: Join, pattern: str, key: str
) -> None:
    transport = await join()
    await transport.declare(inbox(pattern))
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "hello", key=key)
    [delivery] = await take(consumer, 1)
    assert (delivery.exchange, delivery.routing_key, delivery.queue) == (NEWS, key, INBOX)


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
async def test_a_key_that_does_not_fit_the_binding_key_is_returned(
    join: Join, pattern: str, key: str
) -> None:
    transport = await join()
    await transport.declare(inbox(pattern))
    with pytest.raises(UnroutableMessage, match=key.replace(".", r"\.")):
        await send(transport, "hello", key=key)


async def test_a_message_reaches_every_bound_queue_once(transport: Transport) -> None:
    other = Queue("t.other", {"x-queue-type": "classic"})
    keys = ("a.*", "*.b", "#")
    await transport.declare(
        Topology(queues=(other,), bindings=tuple(Binding(NEWS, key, other.name) for key in keys))
    )
    consumers = [await transport.consume(name, prefetch=10) for name in (INBOX, other.name)]
    await send(transport, "one", "two")
    for consumer in consumers:
        assert texts(await take(consumer, 2)) == ["one", "two"]


async def test_an_unroutable_message_comes_back_and_the_others_are_delivered(
    join: Join,
) -> None:
    transport = await join()
    await transport.declare(inbox("good.*"))
    consumer = await transport.consume(INBOX, prefetch=200)
    keys = [f"good.{n}" if n != 25 else "bad.25" for n in range(50)]
    outcomes = await asyncio.gather(
        *(transport.publish(NEWS, key, note(key)) for key in keys), return_exceptions=True
    )
    assert isinstance(outcomes.pop(25), UnroutableMessage)
    assert outcomes == [None] * 49
    assert texts(await take(consumer, 49)) == [key for key in keys if key != "bad.25"]


async def test_what_is_told_is_dropped_where_nobody_listens_and_arrives_in_order_where_somebody_does(
    join: Join,
) -> None:
    transport = await join()
    await transport.declare(inbox("good.*"))
    consumer = await transport.consume(INBOX, prefetch=200)
    fresh = await join()
    keys = [f"{kind}.{n}" for n in range(50) for kind in ("good", "bad")]
    async with asyncio.TaskGroup() as group:
        first, *_ = [
            group.create_task(fresh.publish_unconfirmed(NEWS, key, note(key))) for key in keys[:50]
        ]
        await first  # the others have waited for its channel to be opened
        for key in keys[50:]:
            group.create_task(fresh.publish_unconfirmed(NEWS, key, note(key)))
    assert texts(await take(consumer, 50)) == [key for key in keys if key.startswith("good")]


async def test_what_was_told_before_the_transport_was_closed_arrives(join: Join) -> None:
    transport = await join()
    await transport.declare(inbox("good.*"))
    consumer = await transport.consume(INBOX, prefetch=200)
    leaving = await join()
    for number in range(100):
        await leaving.publish_unconfirmed(NEWS, f"good.{number}", note(str(number)))
    await leaving.__aexit__(None, None, None)
    assert texts(await take(consumer, 100)) == [str(number) for number in range(100)]


async def test_what_is_told_to_an_exchange_that_is_not_there_is_lost_and_the_next_arrives(
    join: Join,
) -> None:
    transport = await join()
    await transport.declare(inbox("good.*"))
    consumer = await transport.consume(INBOX, prefetch=10)
    with suppress(TransportError):
        await transport.publish_unconfirmed("t.missing", "good.1", note("lost"))

    async def heard() -> list[Delivery]:
        """Repeat it: nothing says when the broker has closed the channel on which the first one went."""
        while True:
            with suppress(TransportError, TimeoutError):
                await transport.publish_unconfirmed(NEWS, "good.2", note("heard"))
                async with asyncio.timeout(0.2):
                    return await consumer.batch()

    assert set(texts(await heard())) == {"heard"}


async def test_an_exchange_that_is_not_there_is_an_error_and_the_next_publish_works(
    transport: Transport,
) -> None:
    with pytest.raises(TransportError, match=r"t\.missing"):
        await transport.publish("t.missing", "a", note("lost"))
    await send(transport, "found")
    assert texts(await take(await transport.consume(INBOX, prefetch=10), 1)) == ["found"]


# --- what a message carries -------------------------------------------------------------------


async def test_body_type_id_headers_and_sender_arrive_as_they_were_sent(join: Join) -> None:
    transport = await join("sender")
    await transport.declare(inbox())
    consumer = await (await join("receiver")).consume(INBOX, prefetch=10)
    sent = Outgoing(b"\x00\xff{}", "note", {"words": "ä", "number": 2**40, "negative": -1}, "id-7")
    await transport.publish(NEWS, "a", sent)
    [got] = await take(consumer, 1)
    assert (got.body, got.type, got.message_id) == (sent.body, "note", "id-7")
    assert (got.headers, got.app_id) == (sent.headers, "sender")
    assert not got.redelivered


async def test_a_message_model_says_its_type_and_version(transport: Transport) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    await transport.publish(NEWS, "a", Outgoing.from_message(Probe(), persistent=False))
    [got] = await take(consumer, 1)
    assert (got.type, got.headers) == ("probe", {"schema_version": 1})


async def test_a_message_of_the_largest_size_arrives_whole(transport: Transport) -> None:
    body = bytes(range(256)) * (MAX_MESSAGE_BYTES // 256)
    consumer = await transport.consume(INBOX, prefetch=10)
    await transport.publish(NEWS, "a", Outgoing(body, "note"))
    [got] = await take(consumer, 1)
    assert got.body == body


async def test_concurrent_publishes_keep_their_order(transport: Transport) -> None:
    written = [str(n) for n in range(500)]
    await asyncio.gather(*(transport.publish(NEWS, "a", note(text)) for text in written))
    consumer = await transport.consume(INBOX, prefetch=0)
    assert texts(await take(consumer, 500)) == written


async def test_a_busy_publisher_and_a_busy_consumer_let_others_run(transport: Transport) -> None:
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
        await consumer.ack(await take(consumer, 10))
    task.cancel()
    assert 0 < after_publishing < turns
