"""A reconnecting consumer reopens lost channels, waits, or ends with an error."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skillq import timings
from skillq.errors import QueueInUse, QueueNotFound, TransportError, Unreachable
from skillq.transport.base import Delivery
from skillq.transport.reconnecting import ChannelSession, ReconnectingConsumer


class FakeChannel:
    """A channel that does nothing."""

    async def ack(self, tag: int, *, multiple: bool) -> None: ...

    async def nack(self, tag: int, *, requeue: bool) -> None: ...

    async def close(self) -> None: ...


class FakeSessions:
    """Opens a session with a fake channel, or raises the next error of `refusals`."""

    def __init__(self) -> None:
        self.refusals: list[Exception] = []
        self.refused = 0
        self.opened: list[ChannelSession] = []

    async def open(self) -> ChannelSession:
        await asyncio.sleep(0)
        if self.refusals:
            self.refused += 1
            raise self.refusals.pop(0)
        self.opened.append(ChannelSession(FakeChannel()))
        return self.opened[-1]

    def deliver(self, body: bytes) -> None:
        session = self.opened[-1]
        delivery = Delivery(body, "note", "q", "x", "k", False, {}, "1", "app", (session, 1))
        session.add_delivery(1, delivery)

    def lose(self) -> None:
        self.opened[-1].end()


async def do_not_wait() -> None: ...


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "REOPEN_SECONDS", 0.0)


@pytest.fixture
def sessions() -> FakeSessions:
    return FakeSessions()


@pytest.fixture
async def consumer(sessions: FakeSessions) -> AsyncIterator[ReconnectingConsumer]:
    consumer = await ReconnectingConsumer(sessions.open, do_not_wait).open()
    yield consumer
    await consumer.close()


@pytest.mark.parametrize(
    "refusal",
    [QueueNotFound("no queue"), TransportError("no answer"), Unreachable("no permission")],
    ids=lambda error: type(error).__name__,
)
async def test_a_consumer_retries_after_a_temporary_error_and_is_not_live_meanwhile(
    sessions: FakeSessions, consumer: ReconnectingConsumer, refusal: Exception
) -> None:
    live = [consumer.live]
    sessions.refusals = [refusal] * 3
    sessions.lose()
    live.append(consumer.live)
    await consumer.wait_until_live()
    live.append(consumer.live)
    assert (live, sessions.refused, len(sessions.opened)) == ([True, False, True], 3, 2)
    sessions.deliver(b"hello")
    assert [one.body for one in await consumer.batch()] == [b"hello"]


async def test_a_queue_that_is_in_use_by_another_consumer_ends_the_consumer(
    sessions: FakeSessions, consumer: ReconnectingConsumer
) -> None:
    waiting = asyncio.create_task(consumer.batch())
    await asyncio.sleep(0)
    sessions.refusals = [QueueNotFound("no queue"), QueueInUse("q has a consumer")]
    sessions.lose()
    for call in (waiting, consumer.batch(), consumer.wait_until_live()):
        with pytest.raises(QueueInUse, match="q has a consumer"):
            async with asyncio.timeout(5):
                await call
    assert not consumer.live
    assert len(sessions.opened) == 1, "the consumer does not try again"


async def test_a_consumer_may_wait_until_another_one_is_live_again(
    sessions: FakeSessions, consumer: ReconnectingConsumer
) -> None:
    other_sessions = FakeSessions()
    second = await ReconnectingConsumer(other_sessions.open, consumer.wait_until_live).open()
    sessions.refusals = [QueueNotFound("not yet")] * 5
    sessions.lose()
    other_sessions.lose()
    while len(other_sessions.opened) < 2:
        assert len(sessions.opened) == 2 or not second.live
        await asyncio.sleep(0)
    assert consumer.live
    await second.close()


async def test_a_consumer_that_waits_for_an_ended_one_waits_until_it_is_closed_itself(
    sessions: FakeSessions, consumer: ReconnectingConsumer
) -> None:
    other_sessions = FakeSessions()
    second = await ReconnectingConsumer(other_sessions.open, consumer.wait_until_live).open()
    sessions.refusals = [QueueInUse("taken")]
    sessions.lose()
    other_sessions.lose()
    with pytest.raises(QueueInUse):
        await consumer.batch()
    async with asyncio.timeout(5):
        await second.close()
    assert len(other_sessions.opened) == 1


async def test_wait_until_live_raises_an_error_when_the_consumer_is_closed(
    sessions: FakeSessions, consumer: ReconnectingConsumer
) -> None:
    sessions.refusals = [QueueNotFound("gone")] * 1000
    sessions.lose()
    waiting = asyncio.create_task(consumer.wait_until_live())
    await asyncio.sleep(0)
    await consumer.close()
    with pytest.raises(TransportError, match="closed"):
        async with asyncio.timeout(5):
            await waiting
