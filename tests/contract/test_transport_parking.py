"""What every transport promises of dead letters, and to those who look at them."""

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
    GRAVE,
    GRAVEYARD,
    INBOX,
    NEWS,
    Join,
    Whole,
    browsed,
    inbox,
    note,
    only_left,
    send,
    take,
    texts,
)

# --- dead letters -----------------------------------------------------------------------------


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
    await dead_letter(transport, consumer, delivery, "not a JSON object")
    [letter] = await take(await transport.consume(DEAD_LETTERS, prefetch=10), 1)
    assert (letter.body, letter.type, letter.message_id) == (sent.body, "note", sent.message_id)
    assert letter.headers[REASON_HEADER] == "not a JSON object"
    assert letter.headers[QUEUE_HEADER] == MANAGER_REPORTS
    assert letter.headers[EXCHANGE_HEADER] == REPORTS
    assert letter.headers[ROUTING_KEY_HEADER] == "result.junior"
    assert isinstance(letter.headers[TIME_HEADER], int)
    await consumer.close()
    await transport.publish(REPORTS, "result.junior", note("the last"))
    again = await transport.consume(MANAGER_REPORTS, prefetch=10)
    assert texts(await take(again, 1)) == ["the last"]


# --- browsing ---------------------------------------------------------------------------------


async def test_what_is_only_looked_at_stays_in_its_place(transport: Whole) -> None:
    await send(transport, "a", "b", "c")
    assert texts(await browsed(transport)) == ["a", "b", "c"]
    assert texts(await browsed(transport)) == ["a", "b", "c"]
    async with transport.browse(INBOX) as browser:
        first = await browser.next_message()
    assert first is not None
    assert (first.exchange, first.routing_key, first.queue) == (NEWS, "a.b", INBOX)
    assert first.redelivered
    consumer = await transport.consume(INBOX, prefetch=10)
    assert texts(await take(consumer, 3)) == ["a", "b", "c"]


async def test_what_waits_in_a_queue_is_counted(transport: Whole) -> None:
    await send(transport, "a", "b", "c")
    assert await transport.message_count(INBOX) == 3
    async with transport.browse(INBOX) as browser:
        delivery = await browser.next_message()
        assert delivery is not None
        await browser.remove(delivery)
    assert await transport.message_count(INBOX) == 2
    with pytest.raises(QueueNotFound, match="queue nowhere does not exist"):
        await transport.message_count("nowhere")


async def test_what_is_removed_is_gone_and_nothing_else(transport: Whole) -> None:
    await send(transport, "a", "b", "c", "d")
    async with transport.browse(INBOX) as browser:
        for wanted in (False, True, False):
            delivery = await browser.next_message()
            assert delivery is not None
            if wanted:
                await browser.remove(delivery)
    assert texts(await browsed(transport)) == ["a", "c", "d"]


async def test_a_look_that_fails_gives_everything_back_but_what_it_removed(
    transport: Whole,
) -> None:
    async def look_and_fail() -> None:
        async with transport.browse(INBOX) as browser:
            first = await browser.next_message()
            assert first is not None
            await browser.remove(first)
            await browser.next_message()
            raise ValueError

    await send(transport, "a", "b", "c")
    with pytest.raises(ValueError):
        await look_and_fail()
    assert texts(await browsed(transport)) == ["b", "c"]


async def test_nobody_else_gets_what_is_looked_at_until_it_is_over(transport: Whole) -> None:
    await send(transport, "a", "b")
    async with transport.browse(INBOX) as one, transport.browse(INBOX) as other:
        first, second = await one.next_message(), await other.next_message()
        assert first is not None
        assert second is not None
        assert texts([first, second]) == ["a", "b"]
        assert await one.next_message() is None
        assert await other.next_message() is None
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
        delivery = await browser.next_message()
        assert delivery is not None
        await browser.remove(delivery)
    assert texts(await browsed(transport, DEAD_LETTERS)) == ["b"]


async def test_an_empty_queue_shows_nothing_and_a_missing_one_is_named(transport: Whole) -> None:
    assert await browsed(transport) == []
    with pytest.raises(QueueNotFound, match="no-such-queue"):
        await browsed(transport, "no-such-queue")
    await send(transport, "a")
    assert texts(await browsed(transport)) == ["a"]
