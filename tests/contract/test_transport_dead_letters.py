"""Every transport dead-letters messages and lets them be browsed in the same way."""

import pytest

from skillq.errors import QueueNotFound
from skillq.topology import (
    DEAD_LETTERS,
    MANAGER,
    MANAGER_REPORTS,
    REPORTS,
    Argument,
)
from skillq.transport import Consumer, Transport, dead_letter
from skillq.transport.dead_letters import (
    EXCHANGE_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    ROUTING_KEY_HEADER,
    TIME_HEADER,
)
from tests.contract.transports import (
    EXCHANGE,
    INBOX,
    LETTERS_QUEUE,
    LETTERS_TOPOLOGY,
    Connect,
    FullTransport,
    browse_all,
    close_and_expect,
    inbox_topology,
    receive,
    send,
    text_message,
    texts,
)

# --- dead letters --------------------------------------------------------------------------------


async def consume_dead_letters(transport: Transport, **arguments: Argument) -> Consumer:
    """Declare an inbox that dead-letters; return a consumer of its dead letters."""
    await transport.declare(LETTERS_TOPOLOGY)
    dead_letter_arguments: dict[str, Argument] = {
        "x_dead_letter_exchange": DEAD_LETTERS,
        "x_dead_letter_routing_key": "from.inbox",
    }
    await transport.declare(inbox_topology(**(dead_letter_arguments | arguments)))
    return await transport.consume(LETTERS_QUEUE, prefetch=100)


async def test_a_rejected_message_is_dead_lettered_with_the_reason(connect: Connect) -> None:
    transport = await connect("sender")
    dead_letters = await consume_dead_letters(transport)
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "bad", "good")
    bad, _ = await receive(consumer, 2)
    await consumer.nack(bad, requeue=False)
    [letter] = await receive(dead_letters, 1)
    assert (letter.body, letter.routing_key, letter.exchange) == (
        b"bad",
        "from.inbox",
        DEAD_LETTERS,
    )
    assert (letter.type, letter.message_id, letter.app_id) == ("note", bad.message_id, "sender")
    assert letter.headers["x-first-death-reason"] == "rejected"
    assert letter.headers["x-first-death-queue"] == INBOX
    assert letter.headers["schema_version"] == 1


async def test_an_expired_message_is_dead_lettered_with_the_reason(connect: Connect) -> None:
    transport = await connect()
    dead_letters = await consume_dead_letters(transport, x_message_ttl=50)
    await send(transport, "1", "2")
    letters = await receive(dead_letters, 2)
    assert texts(letters) == ["1", "2"]
    assert {letter.headers["x-first-death-reason"] for letter in letters} == {"expired"}


async def test_a_full_queue_dead_letters_its_oldest_message(connect: Connect) -> None:
    transport = await connect()
    dead_letters = await consume_dead_letters(transport, x_max_length=2)
    await send(transport, "1", "2", "3")
    [letter] = await receive(dead_letters, 1)
    assert (letter.body, letter.headers["x-first-death-reason"]) == (b"1", "maxlen")
    assert texts(await receive(await transport.consume(INBOX, prefetch=10), 2)) == ["2", "3"]


async def test_a_rejected_message_without_dead_letter_exchange_is_dropped(
    transport: Transport,
) -> None:
    consumer = await transport.consume(INBOX, prefetch=10)
    await send(transport, "bad")
    [bad] = await receive(consumer, 1)
    await consumer.nack(bad, requeue=False)
    await close_and_expect(transport, consumer)


async def test_an_unreadable_message_is_dead_lettered_with_reason_and_origin(
    connect: Connect,
) -> None:
    transport = await connect()
    await transport.declare(MANAGER)
    consumer = await transport.consume(MANAGER_REPORTS, prefetch=10)
    sent = text_message("not JSON")
    await transport.publish(REPORTS, "result.junior", sent)
    [delivery] = await receive(consumer, 1)
    await dead_letter(transport, consumer, delivery, "not a JSON object")
    [letter] = await receive(await transport.consume(DEAD_LETTERS, prefetch=10), 1)
    assert (letter.body, letter.type, letter.message_id) == (sent.body, "note", sent.message_id)
    assert letter.headers[REASON_HEADER] == "not a JSON object"
    assert letter.headers[QUEUE_HEADER] == MANAGER_REPORTS
    assert letter.headers[EXCHANGE_HEADER] == REPORTS
    assert letter.headers[ROUTING_KEY_HEADER] == "result.junior"
    assert isinstance(letter.headers[TIME_HEADER], int)
    await consumer.close()
    await transport.publish(REPORTS, "result.junior", text_message("the last"))
    again = await transport.consume(MANAGER_REPORTS, prefetch=10)
    assert texts(await receive(again, 1)) == ["the last"]


# --- browsing ---------------------------------------------------------------------------------


async def test_browsed_messages_stay_in_their_position(transport: FullTransport) -> None:
    await send(transport, "a", "b", "c")
    assert texts(await browse_all(transport)) == ["a", "b", "c"]
    assert texts(await browse_all(transport)) == ["a", "b", "c"]
    async with transport.browse(INBOX) as browser:
        first = await browser.next_message()
    assert first is not None
    assert (first.exchange, first.routing_key, first.queue) == (EXCHANGE, "a.b", INBOX)
    assert first.redelivered
    consumer = await transport.consume(INBOX, prefetch=10)
    assert texts(await receive(consumer, 3)) == ["a", "b", "c"]


async def test_the_messages_of_a_queue_are_counted(transport: FullTransport) -> None:
    await send(transport, "a", "b", "c")
    assert await transport.message_count(INBOX) == 3
    async with transport.browse(INBOX) as browser:
        delivery = await browser.next_message()
        assert delivery is not None
        await browser.remove(delivery)
    assert await transport.message_count(INBOX) == 2
    with pytest.raises(QueueNotFound, match="queue nowhere does not exist"):
        await transport.message_count("nowhere")


async def test_browsing_removes_only_the_chosen_messages(transport: FullTransport) -> None:
    await send(transport, "a", "b", "c", "d")
    async with transport.browse(INBOX) as browser:
        for wanted in (False, True, False):
            delivery = await browser.next_message()
            assert delivery is not None
            if wanted:
                await browser.remove(delivery)
    assert texts(await browse_all(transport)) == ["a", "c", "d"]


async def test_a_browser_that_fails_requeues_all_but_the_removed_messages(
    transport: FullTransport,
) -> None:
    async def browse_and_fail() -> None:
        async with transport.browse(INBOX) as browser:
            first = await browser.next_message()
            assert first is not None
            await browser.remove(first)
            await browser.next_message()
            raise ValueError

    await send(transport, "a", "b", "c")
    with pytest.raises(ValueError):
        await browse_and_fail()
    assert texts(await browse_all(transport)) == ["b", "c"]


async def test_a_browsed_message_is_hidden_from_others_until_the_browser_is_closed(
    transport: FullTransport,
) -> None:
    await send(transport, "a", "b")
    async with transport.browse(INBOX) as one, transport.browse(INBOX) as other:
        first, second = await one.next_message(), await other.next_message()
        assert first is not None
        assert second is not None
        assert texts([first, second]) == ["a", "b"]
        assert await one.next_message() is None
        assert await other.next_message() is None
        consumer = await transport.consume(INBOX, prefetch=10)
    assert sorted(texts(await receive(consumer, 2))) == ["a", "b"]


async def test_an_unreadable_message_can_be_browsed_many_times_and_removed(
    connect: Connect,
) -> None:
    """The queue counts each browsing as a delivery and has a delivery limit."""
    transport = await connect()
    await transport.declare(MANAGER)
    for text in ("a", "b"):
        await transport.publish(DEAD_LETTERS, MANAGER_REPORTS, text_message(text))
    for _ in range(40):
        assert texts(await browse_all(transport, DEAD_LETTERS)) == ["a", "b"]
    async with transport.browse(DEAD_LETTERS) as browser:
        delivery = await browser.next_message()
        assert delivery is not None
        await browser.remove(delivery)
    assert texts(await browse_all(transport, DEAD_LETTERS)) == ["b"]


async def test_browsing_an_empty_queue_shows_nothing_and_a_missing_one_is_an_error(
    transport: FullTransport,
) -> None:
    assert await browse_all(transport) == []
    with pytest.raises(QueueNotFound, match="no-such-queue"):
        await browse_all(transport, "no-such-queue")
    await send(transport, "a")
    assert texts(await browse_all(transport)) == ["a"]
