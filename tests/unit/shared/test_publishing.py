"""Channels whose messages go past the driver: what is written on them, and what becomes of what is waited for."""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiormq.abc import AbstractChannel
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelClosed,
    ChannelInvalidStateError,
    DeliveryError,
)
from pamqp import commands, frame, header
from pamqp.frame import FrameTypes

from skillq.errors import TransportError
from skillq.transport import Outgoing, rabbitmq
from skillq.transport.encoding import Encoder
from skillq.transport.frames import FrameReader
from skillq.transport.rabbitmq import RabbitTransport, publishing, sessions
from skillq.transport.rabbitmq.publishing import Publisher
from skillq.transport.rabbitmq.sessions import ChannelBrowser
from skillq.transport.rabbitmq.wire import Wire

CHANNEL = 3


class Broker:
    """The other end of a connection, and the driver's channel on it."""

    def __init__(self, frame_max: int = 0) -> None:
        self.reader = FrameReader()
        self.writes: list[bytes] = []
        self.gone = False
        self.unread = 0  # bytes
        self._reads = asyncio.Event()
        writer = SimpleNamespace(
            write=self.writes.append,
            is_closing=lambda: self.gone,
            drain=self._reads.wait,
            transport=SimpleNamespace(get_write_buffer_size=lambda: self.unread),
        )
        self.wire = Wire(self.reader, cast(asyncio.StreamWriter, writer))
        self.closing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        tune = SimpleNamespace(frame_max=frame_max)  # 0: no limit
        connection = SimpleNamespace(connection_tune=tune)
        channel = SimpleNamespace(number=CHANNEL, closing=self.closing, connection=connection)
        self.channel = cast(AbstractChannel, channel)

    def read(self) -> None:
        self.unread = 0
        self._reads.set()

    def says(self, *said: FrameTypes) -> None:
        self.reader.feed_data(b"".join(frame.marshal(one, CHANNEL) for one in said))

    def returns(self, message_id: str, key: str = "k") -> None:
        properties = commands.Basic.Properties(message_id=message_id)
        self.says(
            commands.Basic.Return(312, "NO_ROUTE", "x", key),
            header.ContentHeader(0, 0, properties),
        )

    @property
    def frames(self) -> list[tuple[int, FrameTypes]]:
        """Those that were written, with their sizes."""
        found, data = [], b"".join(self.writes)
        while data:
            size, _, one = frame.unmarshal(data)
            found.append((size, one))
            data = data[size:]
        return found

    @property
    def heard(self) -> list[str]:
        return [one.name for _, one in self.frames]


@pytest.fixture
async def broker() -> Broker:
    return Broker()


@pytest.fixture
async def publisher(broker: Broker) -> Publisher:
    return Publisher(broker.channel, broker.wire, Encoder("app", "user"))


Publish = Callable[..., "asyncio.Task[bool]"]


@pytest.fixture
def publish(publisher: Publisher) -> Publish:
    async def confirmed(message_id: str) -> bool:
        return await publisher.publish("x", "k", Outgoing(b"body", "note", message_id=message_id))

    return lambda message_id="": asyncio.create_task(confirmed(message_id))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def outcomes(*tasks: "asyncio.Task[bool]") -> list[bool | str | None]:
    """What came of each: None where nothing did."""
    return [
        None
        if not task.done()
        else type(error).__name__
        if (error := task.exception())
        else task.result()
        for task in tasks
    ]


async def test_each_confirm_is_for_the_message_of_its_number_or_for_all_until_it(
    broker: Broker, publish: Publish
) -> None:
    tasks = [publish() for _ in range(5)]
    await turns()
    broker.says(commands.Basic.Ack(2))
    await turns()
    assert outcomes(*tasks) == [None, True, None, None, None]
    broker.says(commands.Basic.Ack(4, multiple=True))
    await turns()
    assert outcomes(*tasks) == [True, True, True, True, None]
    more = [publish() for _ in range(3)]
    await turns()
    broker.says(commands.Basic.Nack(5))
    await turns()
    assert outcomes(tasks[4]) == [DeliveryError.__name__]
    broker.says(commands.Basic.Nack(7, multiple=True))
    await turns()
    assert outcomes(*more) == [DeliveryError.__name__, DeliveryError.__name__, None]


async def test_what_comes_back_was_taken_by_no_queue_and_its_confirm_says_nothing_more(
    broker: Broker, publish: Publish
) -> None:
    tasks = [publish(name) for name in ("a", "b", "b", "c")]
    await turns()
    broker.returns("b")
    broker.returns("b")
    broker.returns("of somebody else")
    broker.says(commands.Basic.Ack(4, multiple=True))
    await turns()
    assert outcomes(*tasks) == [True, False, False, True]


async def test_of_two_with_one_id_the_one_comes_back_whose_key_it_has(
    broker: Broker, publisher: Publisher
) -> None:
    """A message that is parked has the id that a stranger gave it."""
    outgoing = Outgoing(b"body", "note", message_id="a")
    taken, returned = (publisher.publish("x", key, outgoing) for key in ("k", "l"))
    broker.returns("a", "l")
    broker.says(commands.Basic.Ack(2, multiple=True))
    assert (await taken, await returned) == (True, False)


async def test_no_frame_is_larger_than_the_broker_takes_and_what_is_told_comes_never_back() -> None:
    broker = Broker(frame_max=4096)
    publisher = Publisher(broker.channel, broker.wire, Encoder("app", "user"))
    publisher.tell("x", "k", Outgoing(b"x" * 10_000, "note"))
    sizes = [size for size, _ in broker.frames]
    assert max(sizes) == 4096
    _, method = broker.frames[0]
    assert isinstance(method, commands.Basic.Publish)
    assert not method.mandatory


async def test_a_message_without_an_id_is_known_when_it_comes_back(
    broker: Broker, publish: Publish
) -> None:
    task = publish()
    await turns()
    _, _, head = frame.unmarshal(broker.writes[0][broker.writes[0].index(b"\xce") + 1 :])
    assert isinstance(head, header.ContentHeader)
    broker.returns(str(head.properties.message_id))
    await turns()
    assert outcomes(task) == [False]


async def test_who_is_cancelled_is_missed_by_nobody(broker: Broker, publish: Publish) -> None:
    tasks = [publish(name) for name in ("a", "b", "c")]
    await turns()
    tasks[0].cancel()
    tasks[1].cancel()
    await turns()
    broker.returns("b")
    broker.says(commands.Basic.Ack(1), commands.Basic.Ack(2), commands.Basic.Ack(3))
    await turns()
    assert (tasks[0].cancelled(), tasks[1].cancelled(), tasks[2].result()) == (True, True, True)
    assert broker.heard.count("Basic.Publish") == 3


async def test_what_is_not_confirmed_in_time_is_given_up_and_later_ones_are_not(
    broker: Broker, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RPC_SECONDS", 0.05)
    early = [publish(), publish()]
    await asyncio.wait(early)
    assert outcomes(*early) == ["TimeoutError"] * 2
    late = publish()
    await turns()
    broker.says(commands.Basic.Ack(1))  # too late
    broker.says(commands.Basic.Ack(3))
    assert await late
    unheard = [publish()]
    await asyncio.sleep(0.02)  # each has its own time
    unheard.append(publish())
    await asyncio.wait(unheard)
    assert outcomes(*unheard) == ["TimeoutError"] * 2


async def test_what_is_published_while_others_are_given_up_puts_nobody_s_time_off(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RPC_SECONDS", 0.3)
    early = publish()
    await asyncio.sleep(0.05)
    second = publish()
    await asyncio.sleep(0.24)
    later = []
    while not early.done():
        later.append(publish())
        await asyncio.sleep(0)
    await asyncio.wait([second])
    assert not later[-1].done()
    await asyncio.wait(later)
    assert set(outcomes(early, second, *later)) == {"TimeoutError"}


async def test_a_confirm_that_is_there_counts_though_we_have_stood_still(
    broker: Broker, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RPC_SECONDS", 0.01)
    task = publish()
    await turns()
    time.sleep(0.02)  # noqa: ASYNC251 - that is it
    loop = asyncio.get_running_loop()
    # It is read after the time was over: so a loop does that looks at its timers first.
    loop.call_soon(loop.call_soon, broker.says, commands.Basic.Ack(1))
    assert await task


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (ChannelClosed(404, "no exchange"), ChannelClosed),
        (asyncio.CancelledError(), AMQPConnectionError),
        (None, AMQPConnectionError),
        (Exception(), AMQPConnectionError),
    ],
    ids=["channel", "connection", "cancelled", "no reason"],
)
async def test_when_the_channel_ends_so_does_all_waiting_for_it_with_the_reason(
    broker: Broker, publisher: Publisher, publish: Publish, reason: Any, said: type[Exception]
) -> None:
    tasks = [publish(), publish()]
    await turns()
    if reason is None:
        broker.closing.cancel()
    else:
        broker.closing.set_exception(reason)
    await turns()
    assert publisher.ended
    assert outcomes(*tasks) == [said.__name__] * 2


async def test_what_is_sent_in_one_turn_is_written_in_order_the_first_at_once(
    broker: Broker, publisher: Publisher
) -> None:
    def tell(*texts: bytes) -> None:
        for text in texts:
            publisher.tell("x", "k", Outgoing(text, "note"))

    tell(b"1")
    assert len(broker.writes) == 1
    tell(b"2", b"3")
    assert len(broker.writes) == 1
    await turns()
    tell(b"4")
    await turns()
    assert len(broker.writes) == 3
    written = b"".join(broker.writes)
    places = [written.index(b"\0\0\0\1" + text + b"\xce") for text in (b"1", b"2", b"3", b"4")]
    assert places == sorted(places)


async def test_on_a_connection_that_is_gone_nothing_is_written(
    broker: Broker, publisher: Publisher
) -> None:
    broker.gone = True
    with pytest.raises(AMQPConnectionError):
        publisher.tell("x", "k", Outgoing(b"", "note"))
    await turns()
    assert broker.writes == []


async def test_a_browser_that_gave_up_takes_no_late_answer_for_that_to_another_question(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "RPC_SECONDS", 0.02)
    browser = ChannelBrowser(broker.channel, broker.wire, "q", lambda _: nullcontext())
    broker.says(commands.Basic.GetEmpty())  # nobody asked
    with pytest.raises(TimeoutError):
        await browser.next()
    broker.says(commands.Basic.GetEmpty())
    with pytest.raises(ChannelInvalidStateError):
        await browser.next()


async def test_a_browser_whose_channel_ends_hears_why(broker: Broker) -> None:
    browser = ChannelBrowser(broker.channel, broker.wire, "q", lambda _: nullcontext())
    asking = asyncio.create_task(browser.next())
    await turns()
    broker.closing.set_exception(ChannelClosed(404, "no queue"))
    with pytest.raises(ChannelClosed):
        await asking


# --- a transport on it


class Connection:
    """A link whose channels are opened by `open`, if ever."""

    connected = True

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.opens = asyncio.Event()

    async def channel(self, *, confirms: bool) -> tuple[AbstractChannel, Wire]:
        await self.opens.wait()
        return self._broker.channel, self._broker.wire


@pytest.fixture
def connection(broker: Broker) -> Connection:
    return Connection(broker)


@pytest.fixture
def transport(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> RabbitTransport:
    for module in (rabbitmq.transport, rabbitmq.wire):
        monkeypatch.setattr(module, "RPC_SECONDS", 0.05)
    transport = RabbitTransport("amqp://localhost", app_id="app", connection_name="name")
    transport._links = cast(Any, [connection])
    return transport


NOTE = Outgoing(b"", "note")


async def test_where_no_channel_can_be_opened_all_who_wait_hear_so_at_the_same_time(
    transport: RabbitTransport, connection: Connection
) -> None:
    began = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(
        *(transport.publish("x", "k", NOTE) for _ in range(10)),
        *(transport.tell("x", "k", NOTE) for _ in range(10)),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {TransportError}
    assert asyncio.get_running_loop().time() - began < 10 * 0.05
    connection.opens.set()
    await transport.tell("x", "k", NOTE)


async def test_while_the_broker_reads_nothing_no_more_is_written_than_so_much(
    transport: RabbitTransport, connection: Connection, broker: Broker
) -> None:
    connection.opens.set()
    await transport.tell("x", "k", NOTE)
    before = len(broker.writes)
    broker.unread = 2**30
    with pytest.raises(TransportError, match="takes nothing"):
        await transport.tell("x", "k", NOTE)
    with pytest.raises(TransportError, match="did not answer in time"):
        await transport.publish("x", "k", NOTE)
    waiting = [asyncio.create_task(transport.publish("x", key, NOTE)) for key in "abc"]
    await turns()
    assert len(broker.writes) == before
    broker.read()
    waiting.append(asyncio.create_task(transport.publish("x", "late", NOTE)))
    await turns()
    await turns()
    keys = [one.routing_key for _, one in broker.frames if isinstance(one, commands.Basic.Publish)]
    assert keys[1:] == ["a", "b", "c", "late"]
    broker.says(commands.Basic.Ack(4, multiple=True))
    await asyncio.gather(*waiting)


async def test_what_waits_to_be_written_in_this_turn_counts_too(
    transport: RabbitTransport, connection: Connection, broker: Broker
) -> None:
    connection.opens.set()
    large = Outgoing(b"x" * 2**20, "note")
    publishing = [asyncio.create_task(transport.publish("x", "k", large)) for _ in range(40)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(map(len, broker.writes)) + broker.wire._unsent < 18 * 2**20
    for task in publishing:
        task.cancel()
    await asyncio.gather(*publishing, return_exceptions=True)
