"""A consumer that outlives its channels: when it goes on, when it waits, and when it is over."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skillq import timings
from skillq.errors import QueueInUse, QueueNotFound, TransportError, Unreachable
from skillq.transport.base import Delivery
from skillq.transport.reconnecting import ChannelSession, ReconnectingConsumer


class Silent:
    """A channel of which nobody asks anything."""

    async def ack(self, tag: int, *, multiple: bool) -> None: ...

    async def nack(self, tag: int, *, requeue: bool) -> None: ...

    async def close(self) -> None: ...


class Broker:
    """Gives a channel, or refuses one as `refusals` say."""

    def __init__(self) -> None:
        self.refusals: list[Exception] = []
        self.refused = 0
        self.sessions: list[ChannelSession] = []

    async def begin(self) -> ChannelSession:
        await asyncio.sleep(0)
        if self.refusals:
            self.refused += 1
            raise self.refusals.pop(0)
        self.sessions.append(ChannelSession(Silent()))
        return self.sessions[-1]

    def deliver(self, body: bytes) -> None:
        session = self.sessions[-1]
        delivery = Delivery(body, "note", "q", "x", "k", False, {}, "1", "app", (session, 1))
        session.add_delivery(1, delivery)

    def lose(self) -> None:
        self.sessions[-1].end()


async def always() -> None: ...


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "REOPEN_SECONDS", 0.0)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def consumer(broker: Broker) -> AsyncIterator[ReconnectingConsumer]:
    consumer = await ReconnectingConsumer(broker.begin, always).open()
    yield consumer
    await consumer.close()


@pytest.mark.parametrize(
    "refusal",
    [QueueNotFound("no queue"), TransportError("no answer"), Unreachable("no permission")],
    ids=lambda error: type(error).__name__,
)
async def test_what_may_pass_is_waited_for_and_the_consumer_says_that_it_has_nothing_meanwhile(
    broker: Broker, consumer: ReconnectingConsumer, refusal: Exception
) -> None:
    live = [consumer.live]
    broker.refusals = [refusal] * 3
    broker.lose()
    live.append(consumer.live)
    await consumer.wait_until_live()
    live.append(consumer.live)
    assert (live, broker.refused, len(broker.sessions)) == ([True, False, True], 3, 2)
    broker.deliver(b"hello")
    assert [one.body for one in await consumer.batch()] == [b"hello"]


async def test_a_queue_that_somebody_else_has_meanwhile_ends_the_consumer_with_that_reason(
    broker: Broker, consumer: ReconnectingConsumer
) -> None:
    waiting = asyncio.create_task(consumer.batch())
    await asyncio.sleep(0)
    broker.refusals = [QueueNotFound("no queue"), QueueInUse("q has a consumer")]
    broker.lose()
    for asking in (waiting, consumer.batch(), consumer.wait_until_live()):
        with pytest.raises(QueueInUse, match="q has a consumer"):
            async with asyncio.timeout(5):
                await asking
    assert not consumer.live
    assert len(broker.sessions) == 1, "it tries no more"


async def test_one_consumer_begins_anew_only_after_another(
    broker: Broker, consumer: ReconnectingConsumer
) -> None:
    others = Broker()
    second = await ReconnectingConsumer(others.begin, consumer.wait_until_live).open()
    broker.refusals = [QueueNotFound("not yet")] * 5
    broker.lose()
    others.lose()
    while len(others.sessions) < 2:
        assert len(broker.sessions) == 2 or not second.live
        await asyncio.sleep(0)
    assert consumer.live
    await second.close()


async def test_who_waits_for_another_that_is_over_waits_until_it_is_closed(
    broker: Broker, consumer: ReconnectingConsumer
) -> None:
    others = Broker()
    second = await ReconnectingConsumer(others.begin, consumer.wait_until_live).open()
    broker.refusals = [QueueInUse("taken")]
    broker.lose()
    others.lose()
    with pytest.raises(QueueInUse):
        await consumer.batch()
    async with asyncio.timeout(5):
        await second.close()
    assert len(others.sessions) == 1


async def test_who_waits_until_it_is_live_is_told_when_it_is_closed(
    broker: Broker, consumer: ReconnectingConsumer
) -> None:
    broker.refusals = [QueueNotFound("gone")] * 1000
    broker.lose()
    waiting = asyncio.create_task(consumer.wait_until_live())
    await asyncio.sleep(0)
    await consumer.close()
    with pytest.raises(TransportError, match="closed"):
        async with asyncio.timeout(5):
            await waiting
