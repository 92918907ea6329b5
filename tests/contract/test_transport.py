"""What every transport promises: the one in memory and the one over RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Protocol

import pytest

from skillq.errors import QueueInUse, QueueNotFound, TransportError, Unroutable, UsageError
from skillq.messages import MAX_MESSAGE_BYTES, Probe, Stop
from skillq.topology import (
    COMMANDS,
    DEAD_LETTERS,
    EVENTS,
    MANAGER,
    MANAGER_HEARTBEATS,
    MANAGER_REPORTS,
    MANAGER_SUBMISSIONS,
    REPORTS,
    SUBMISSIONS,
    Argument,
    Binding,
    Queue,
    Topology,
    worker_queue,
    worker_topology,
)
from skillq.transport import Browsable, Browser, Consumer, Delivery, Outgoing, Transport, park
from skillq.transport.base import (
    AT_HEADER,
    EXCHANGE_HEADER,
    KEY_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
)
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq.transport.rabbitmq import RabbitTransport

SECONDS = 20.0
NEWS = "t.news"
INBOX = "t.inbox"
GRAVE = "t.grave"


class Whole(Transport, Browsable, Protocol):
    """All that a transport can do."""


Join = Callable[..., Awaitable[Whole]]


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
async def join(request: pytest.FixtureRequest) -> AsyncIterator[Join]:
    """Open any number of transports to one fresh broker."""
    make = _memory() if request.param == "memory" else _rabbitmq(request)
    async with AsyncExitStack() as stack:

        async def enter(app_id: str = "tests") -> Whole:
            return await stack.enter_async_context(make(app_id))

        yield enter


def _memory() -> Callable[[str], Whole]:
    broker = MemoryBroker()
    return lambda app_id: MemoryTransport(broker, app_id=app_id)


def _rabbitmq(request: pytest.FixtureRequest) -> Callable[[str], Whole]:
    url = request.getfixturevalue("broker_url")
    return lambda app_id: RabbitTransport(url, app_id=app_id, connection_name="tests")


@pytest.fixture
async def transport(join: Join) -> Whole:
    transport = await join()
    await transport.declare(inbox())
    return transport


def inbox(key: str = "#", /, **arguments: Argument) -> Topology:
    """One exchange and one queue; `x_max_length=5` is its argument `x-max-length`."""
    dashed = {name.replace("_", "-"): value for name, value in arguments.items()}
    queue = Queue(INBOX, {"x-queue-type": "classic", **dashed})
    return Topology((NEWS,), (queue,), (Binding(NEWS, key, INBOX),))


GRAVEYARD = Topology(
    (DEAD_LETTERS,),
    (Queue(GRAVE, {"x-queue-type": "classic"}),),
    (Binding(DEAD_LETTERS, "#", GRAVE),),
)


def note(text: str) -> Outgoing:
    return Outgoing(text.encode(), "note")


def texts(deliveries: Iterable[Delivery]) -> list[str]:
    return [delivery.body.decode() for delivery in deliveries]


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """The next deliveries, which must be so many."""
    taken: list[Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(taken) < count:
            taken += await consumer.batch()
    assert len(taken) == count, texts(taken)
    return taken


async def send(transport: Transport, *written: str, key: str = "a.b") -> None:
    for text in written:
        await transport.publish(NEWS, key, note(text))


# --- routing -----------------------------------------------------------------------------------


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
    with pytest.raises(Unroutable, match=key.replace(".", r"\.")):
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


async def test_an_unroutable_mandatory_message_comes_back_and_the_others_are_delivered(
    join: Join,
) -> None:
    transport = await join()
    await transport.declare(inbox("good.*"))
    consumer = await transport.consume(INBOX, prefetch=200)
    keys = [f"good.{n}" if n != 25 else "bad.25" for n in range(50)]
    outcomes = await asyncio.gather(
        *(transport.publish(NEWS, key, note(key)) for key in keys), return_exceptions=True
    )
    assert isinstance(outcomes.pop(25), Unroutable)
    assert outcomes == [None] * 49
    assert texts(await take(consumer, 49)) == [key for key in keys if key != "bad.25"]


async def test_an_unroutable_message_that_is_not_mandatory_is_dropped(join: Join) -> None:
    transport = await join()
    await transport.declare(inbox("good.*"))
    await transport.publish(NEWS, "bad.1", note("nobody's"), mandatory=False)
    await send(transport, "mine", key="good.1")
    assert texts(await take(await transport.consume(INBOX, prefetch=10), 1)) == ["mine"]


async def test_an_exchange_that_is_not_there_is_an_error_and_the_next_publish_works(
    transport: Transport,
) -> None:
    with pytest.raises(TransportError, match=r"t\.missing"):
        await transport.publish("t.missing", "a", note("lost"))
    await send(transport, "found")
    assert texts(await take(await transport.consume(INBOX, prefetch=10), 1)) == ["found"]


# --- what a message carries --------------------------------------------------------------------


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
    await transport.publish(NEWS, "a", Outgoing.of(Probe(), persistent=False))
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


# --- consuming ---------------------------------------------------------------------------------


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


async def only_left(transport: Transport, consumer: Consumer, *left: str) -> None:
    """Close the consumer; the queue must then hold exactly this."""
    await consumer.close()
    await send(transport, "the last")
    again = await transport.consume(INBOX, prefetch=0)
    assert texts(await take(again, len(left) + 1)) == [*left, "the last"]


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


# --- dead letters ------------------------------------------------------------------------------


async def with_graveyard(transport: Transport, **arguments: Argument) -> Consumer:
    """Replace the inbox by one that dead-letters; return the consumer of its dead letters."""
    await transport.declare(GRAVEYARD)
    dying: dict[str, Argument] = {
        "x_dead_letter_exchange": DEAD_LETTERS,
        "x_dead_letter_routing_key": "from.inbox",
    }
    await transport.declare(inbox(**(dying | arguments)))
    return await transport.consume(GRAVE, prefetch=100)


async def test_a_rejected_message_is_dead_lettered_with_the_reason(join: Join) -> None:
    transport = await join("sender")
    dead = await with_graveyard(transport)
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "bad", "good")
    bad, _ = await take(consumer, 2)
    await consumer.nack(bad, requeue=False)
    [letter] = await take(dead, 1)
    assert (letter.body, letter.routing_key, letter.exchange) == (
        b"bad",
        "from.inbox",
        DEAD_LETTERS,
    )
    assert (letter.type, letter.message_id, letter.app_id) == ("note", bad.message_id, "sender")
    assert letter.headers["x-first-death-reason"] == "rejected"
    assert letter.headers["x-first-death-queue"] == INBOX
    assert letter.headers["schema_version"] == 1


async def test_an_expired_message_is_dead_lettered_with_the_reason(join: Join) -> None:
    transport = await join()
    dead = await with_graveyard(transport, x_message_ttl=50)
    await send(transport, "1", "2")
    letters = await take(dead, 2)
    assert texts(letters) == ["1", "2"]
    assert {letter.headers["x-first-death-reason"] for letter in letters} == {"expired"}


async def test_a_full_queue_drops_its_oldest_message_to_the_dead_letters(join: Join) -> None:
    transport = await join()
    dead = await with_graveyard(transport, x_max_length=2)
    await send(transport, "1", "2", "3")
    [letter] = await take(dead, 1)
    assert (letter.body, letter.headers["x-first-death-reason"]) == (b"1", "maxlen")
    assert texts(await take(await transport.consume(INBOX, prefetch=10), 2)) == ["2", "3"]


async def test_a_rejected_message_without_dead_letter_exchange_is_gone(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "bad")
    [bad] = await take(consumer, 1)
    await consumer.nack(bad, requeue=False)
    await only_left(transport, consumer)


async def test_a_parked_message_lies_in_the_dead_letters_with_reason_and_origin(
    join: Join,
) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    consumer = await transport.consume(MANAGER_REPORTS, prefetch=10)
    sent = note("not JSON")
    await transport.publish(REPORTS, "result.junior", sent)
    [delivery] = await take(consumer, 1)
    await park(transport, consumer, delivery, "not a JSON object")
    [letter] = await take(await transport.consume(DEAD_LETTERS, prefetch=10), 1)
    assert (letter.body, letter.type, letter.message_id) == (sent.body, "note", sent.message_id)
    assert letter.headers[REASON_HEADER] == "not a JSON object"
    assert letter.headers[QUEUE_HEADER] == MANAGER_REPORTS
    assert letter.headers[EXCHANGE_HEADER] == REPORTS
    assert letter.headers[KEY_HEADER] == "result.junior"
    assert isinstance(letter.headers[AT_HEADER], int)
    await consumer.close()
    await transport.publish(REPORTS, "result.junior", note("the last"))
    again = await transport.consume(MANAGER_REPORTS, prefetch=10)
    assert texts(await take(again, 1)) == ["the last"]


# --- browsing ----------------------------------------------------------------------------------


async def browsed(transport: Browsable, queue: str = INBOX) -> list[Delivery]:
    async with transport.browse(queue) as browser:
        return [delivery async for delivery in _all(browser)]


async def _all(browser: Browser) -> AsyncIterator[Delivery]:
    async with asyncio.timeout(SECONDS):
        while (delivery := await browser.next()) is not None:
            yield delivery


async def test_what_is_only_looked_at_stays_in_its_place(transport: Whole) -> None:
    await send(transport, "a", "b", "c")
    assert texts(await browsed(transport)) == ["a", "b", "c"]
    assert texts(await browsed(transport)) == ["a", "b", "c"]
    async with transport.browse(INBOX) as browser:
        first = await browser.next()
    assert first is not None
    assert (first.exchange, first.routing_key, first.queue) == (NEWS, "a.b", INBOX)
    assert first.redelivered
    consumer = await transport.consume(INBOX, prefetch=10)
    assert texts(await take(consumer, 3)) == ["a", "b", "c"]


async def test_what_waits_in_a_queue_is_counted(transport: Whole) -> None:
    await send(transport, "a", "b", "c")
    assert await transport.waiting(INBOX) == 3
    async with transport.browse(INBOX) as browser:
        delivery = await browser.next()
        assert delivery is not None
        await browser.remove(delivery)
    assert await transport.waiting(INBOX) == 2
    with pytest.raises(QueueNotFound, match="queue nowhere does not exist"):
        await transport.waiting("nowhere")


async def test_what_is_removed_is_gone_and_nothing_else(transport: Whole) -> None:
    await send(transport, "a", "b", "c", "d")
    async with transport.browse(INBOX) as browser:
        for wanted in (False, True, False):
            delivery = await browser.next()
            assert delivery is not None
            if wanted:
                await browser.remove(delivery)
    assert texts(await browsed(transport)) == ["a", "c", "d"]


async def test_a_look_that_fails_gives_everything_back_but_what_it_removed(
    transport: Whole,
) -> None:
    async def look_and_fail() -> None:
        async with transport.browse(INBOX) as browser:
            first = await browser.next()
            assert first is not None
            await browser.remove(first)
            await browser.next()
            raise ValueError

    await send(transport, "a", "b", "c")
    with pytest.raises(ValueError):
        await look_and_fail()
    assert texts(await browsed(transport)) == ["b", "c"]


async def test_nobody_else_gets_what_is_looked_at_until_it_is_over(transport: Whole) -> None:
    await send(transport, "a", "b")
    async with transport.browse(INBOX) as one, transport.browse(INBOX) as other:
        first, second = await one.next(), await other.next()
        assert first is not None
        assert second is not None
        assert texts([first, second]) == ["a", "b"]
        assert await one.next() is None
        assert await other.next() is None
        consumer = await transport.consume(INBOX, prefetch=10)
    assert sorted(texts(await take(consumer, 2))) == ["a", "b"]


async def test_a_parked_message_can_be_looked_at_any_number_of_times_and_taken_out(
    join: Join,
) -> None:
    """The queue counts each look as a delivery, and has a limit for them."""
    transport = await join()
    await transport.declare(MANAGER)
    for text in ("a", "b"):
        await transport.publish(DEAD_LETTERS, MANAGER_REPORTS, note(text))
    for _ in range(40):
        assert texts(await browsed(transport, DEAD_LETTERS)) == ["a", "b"]
    async with transport.browse(DEAD_LETTERS) as browser:
        delivery = await browser.next()
        assert delivery is not None
        await browser.remove(delivery)
    assert texts(await browsed(transport, DEAD_LETTERS)) == ["b"]


async def test_an_empty_queue_shows_nothing_and_a_missing_one_is_named(transport: Whole) -> None:
    assert await browsed(transport) == []
    with pytest.raises(QueueNotFound, match="no-such-queue"):
        await browsed(transport, "no-such-queue")
    await send(transport, "a")
    assert texts(await browsed(transport)) == ["a"]


# --- declaring ---------------------------------------------------------------------------------


async def test_the_topologies_can_be_declared_again_and_keep_their_messages(join: Join) -> None:
    transport = await join()
    for _ in range(2):
        await transport.declare(MANAGER)
        await transport.declare(worker_topology("junior"))
        await transport.publish(COMMANDS, "assignment.junior", note("work"))
    consumer = await transport.consume(worker_queue("junior"), prefetch=10)
    assert texts(await take(consumer, 2)) == ["work", "work"]


async def test_every_key_of_the_topology_reaches_its_queue(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    expected = [
        (SUBMISSIONS, "submit.ci", MANAGER_SUBMISSIONS),
        (REPORTS, "connect.junior", MANAGER_REPORTS),
        (REPORTS, "disconnect.junior", MANAGER_REPORTS),
        (REPORTS, "result.junior", MANAGER_REPORTS),
        (REPORTS, "progress.junior", MANAGER_REPORTS),
        (REPORTS, "heartbeat.junior", MANAGER_HEARTBEATS),
        (DEAD_LETTERS, MANAGER_REPORTS, DEAD_LETTERS),
    ]
    consumers = {
        queue: await transport.consume(queue, prefetch=10) for queue in {q for *_, q in expected}
    }
    for exchange, key, queue in expected:
        await transport.publish(exchange, key, note(key))
        assert texts(await take(consumers[queue], 1)) == [key]


async def test_a_command_reaches_its_worker_and_stop_all_reaches_every_worker(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    consumers = {}
    for worker in ("junior", "senior"):
        await transport.declare(worker_topology(worker))
        consumers[worker] = await transport.consume(worker_queue(worker), prefetch=10)
    await transport.publish(COMMANDS, "cancel.senior", note("for senior"))
    await transport.publish(COMMANDS, "stop.all", Outgoing.of(Stop(incarnations=())))
    [stop] = await take(consumers["junior"], 1)
    assert stop.type == "stop"
    assert [one.type for one in await take(consumers["senior"], 2)] == ["note", "stop"]


async def test_a_queue_with_other_arguments_is_refused_by_name_and_nothing_breaks(
    transport: Transport,
) -> None:
    with pytest.raises(UsageError, match=r"t\.inbox.*other arguments"):
        await transport.declare(inbox(x_max_length=5))
    await send(transport, "hello")
    assert texts(await take(await transport.consume(INBOX, prefetch=10), 1)) == ["hello"]


async def test_a_workers_queue_with_other_arguments_is_made_anew_under_its_consumer(
    join: Join,
) -> None:
    transport = await join()
    queue = worker_queue("junior")
    old = Topology(queues=(Queue(queue, {"x-queue-type": "classic", "x-max-length": 5}),))
    await transport.declare(MANAGER)
    await transport.declare(old)
    consumer = await transport.consume(queue, prefetch=10, exclusive=True)
    await transport.declare(worker_topology("junior"))
    await transport.publish(COMMANDS, "assignment.junior", note("work"))
    [work] = await take(consumer, 1)
    await consumer.ack([work])
    assert work.body == b"work"


async def test_a_binding_to_an_exchange_that_is_not_there_is_an_error(join: Join) -> None:
    transport = await join()
    with pytest.raises(TransportError, match=COMMANDS):
        await transport.declare(worker_topology("junior"))
    await transport.declare(MANAGER)
    await transport.declare(worker_topology("junior"))


# --- subscribing -------------------------------------------------------------------------------


async def test_a_subscriber_gets_what_matches_from_now_on(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    await transport.publish(EVENTS, "task.r1.task.succeeded", note("before"), mandatory=False)
    watcher = await (await join()).subscribe(EVENTS, ["task.r1.#", "run.r1.*"])
    other = await transport.subscribe(EVENTS, ["#"])
    keys = ["task.r1.task.ready", "task.r2.task.ready", "run.r1.completed", "worker.w.lost"]
    for key in keys:
        await transport.publish(EVENTS, key, note(key))
    assert texts(await take(watcher, 2)) == [keys[0], keys[2]]
    assert texts(await take(other, 4)) == keys


async def test_a_subscription_goes_when_its_consumer_is_closed(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    watcher = await transport.subscribe(EVENTS, ["#"])
    await transport.publish(EVENTS, "run.r1.accepted", note("seen"))
    await watcher.ack(await take(watcher, 1))
    await watcher.close()
    await until_unroutable(transport, EVENTS, "run.r1.completed")


async def until_unroutable(transport: Transport, exchange: str, key: str) -> None:
    """Publish until nobody is bound; a queue that is just going may still refuse or take it."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await transport.publish(exchange, key, note("unseen"))
            except Unroutable:
                return
            except TransportError:
                continue


async def test_subscribing_to_an_exchange_that_is_not_there_is_an_error(join: Join) -> None:
    transport = await join()
    with pytest.raises(TransportError, match=EVENTS):
        await transport.subscribe(EVENTS, ["#"])


# --- opening and closing -----------------------------------------------------------------------


def is_connected(transport: Transport) -> bool:
    return transport.connected


async def test_a_closed_transport_says_so_to_whoever_uses_it(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    consumer = await transport.consume(MANAGER_REPORTS, prefetch=10)
    assert is_connected(transport)
    await transport.__aexit__(None, None, None)
    assert not is_connected(transport)
    for use in (
        transport.publish(REPORTS, "result.junior", note("late")),
        transport.declare(MANAGER),
        transport.consume(MANAGER_REPORTS, prefetch=1),
        transport.subscribe(EVENTS, ["#"]),
        consumer.batch(),
        browsed(transport),
    ):
        with pytest.raises(TransportError, match="closed"):
            await use
