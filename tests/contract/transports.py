"""Small builders for the contract of transports."""

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
NEWS = "t.news"
INBOX = "t.inbox"
GRAVE = "t.grave"


class Whole(Transport, Browsable, Protocol):
    """All that a transport can do."""


Join = Callable[..., Awaitable[Whole]]


def in_memory() -> Callable[[str], Whole]:
    broker = MemoryBroker()
    return lambda app_id: MemoryTransport(broker, app_id=app_id)


def over_rabbitmq(request: pytest.FixtureRequest) -> Callable[[str], Whole]:
    url = request.getfixturevalue("broker_url")
    return lambda app_id: RabbitTransport(url, app_id=app_id, connection_name="tests")


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


async def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if holds():
                return
            await asyncio.sleep(0.02)


async def send(transport: Transport, *written: str, key: str = "a.b") -> None:
    for text in written:
        await transport.publish(NEWS, key, note(text))


async def only_left(transport: Transport, consumer: Consumer, *left: str) -> None:
    """Close the consumer; the queue must then hold exactly this."""
    await consumer.close()
    await send(transport, "the last")
    again = await transport.consume(INBOX, prefetch=0)
    assert texts(await take(again, len(left) + 1)) == [*left, "the last"]


async def browsed(transport: Browsable, queue: str = INBOX) -> list[Delivery]:
    async with transport.browse(queue) as browser:
        return [delivery async for delivery in _all(browser)]


async def _all(browser: Browser) -> AsyncIterator[Delivery]:
    async with asyncio.timeout(SECONDS):
        while (delivery := await browser.next_message()) is not None:
            yield delivery
