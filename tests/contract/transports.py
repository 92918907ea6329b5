"""Open transports, and send, receive and browse messages in tests of the transport contract."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Protocol

import pytest

from skillq.topology import (
    DEAD_LETTERS,
    Argument,
    Binding,
    Queue,
    Topology,
)
from skillq.transport import Browsable, Browser, Consumer, Delivery, Outgoing, Transport
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq.transport.rabbitmq import RabbitTransport

SECONDS = 20.0
EXCHANGE = "t.exchange"
INBOX = "t.inbox"
LETTERS_QUEUE = "t.letters"


class FullTransport(Transport, Browsable, Protocol):
    """A transport with the methods of both ports."""


Connect = Callable[..., Awaitable[FullTransport]]


def in_memory() -> Callable[[str], FullTransport]:
    broker = MemoryBroker()
    return lambda app_id: MemoryTransport(broker, app_id=app_id)


def over_rabbitmq(request: pytest.FixtureRequest) -> Callable[[str], FullTransport]:
    url = request.getfixturevalue("broker_url")
    return lambda app_id: RabbitTransport(url, app_id=app_id, connection_name="tests")


def inbox_topology(key: str = "#", /, **arguments: Argument) -> Topology:
    """Return one exchange and one queue; `x_max_length=5` is the queue argument `x-max-length`."""
    dashed = {name.replace("_", "-"): value for name, value in arguments.items()}
    queue = Queue(INBOX, {"x-queue-type": "classic", **dashed})
    return Topology((EXCHANGE,), (queue,), (Binding(EXCHANGE, key, INBOX),))


LETTERS_TOPOLOGY = Topology(
    (DEAD_LETTERS,),
    (Queue(LETTERS_QUEUE, {"x-queue-type": "classic"}),),
    (Binding(DEAD_LETTERS, "#", LETTERS_QUEUE),),
)


def text_message(text: str) -> Outgoing:
    return Outgoing(text.encode(), "note")


def texts(deliveries: Iterable[Delivery]) -> list[str]:
    return [delivery.body.decode() for delivery in deliveries]


async def receive(consumer: Consumer, count: int) -> list[Delivery]:
    """Receive `count` deliveries; fail if there are more."""
    received: list[Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(received) < count:
            received += await consumer.batch()
    assert len(received) == count, texts(received)
    return received


async def send(transport: Transport, *sent: str, key: str = "a.b") -> None:
    for text in sent:
        await transport.publish(EXCHANGE, key, text_message(text))


async def close_and_expect(transport: Transport, consumer: Consumer, *remaining: str) -> None:
    """Close the consumer; check that the queue then has exactly these messages."""
    await consumer.close()
    await send(transport, "the last")
    again = await transport.consume(INBOX, prefetch=0)
    assert texts(await receive(again, len(remaining) + 1)) == [*remaining, "the last"]


async def browse_all(transport: Browsable, queue: str = INBOX) -> list[Delivery]:
    async with transport.browse(queue) as browser:
        return [delivery async for delivery in _all(browser)]


async def _all(browser: Browser) -> AsyncIterator[Delivery]:
    async with asyncio.timeout(SECONDS):
        while (delivery := await browser.next_message()) is not None:
            yield delivery
