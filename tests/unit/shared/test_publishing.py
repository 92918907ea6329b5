"""Channels whose messages go past the driver: what is written on them, and what becomes of what is waited for."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelClosed,
    ChannelInvalidStateError,
    DeliveryError,
)
from pamqp import commands, frame, header

from skillq import timings
from skillq.transport import Outgoing
from skillq.transport.rabbitmq.fastpath.consumer import ChannelBrowser
from skillq.transport.rabbitmq.fastpath.encode import Encoder
from skillq.transport.rabbitmq.fastpath.publisher import Publisher
from tests.support.virtual_time import advance
from tests.unit.shared.far_end import FarEnd, turns


@pytest.fixture
async def far_end() -> FarEnd:
    return FarEnd()


@pytest.fixture
async def publisher(far_end: FarEnd) -> Publisher:
    return Publisher(far_end.channel, far_end.wire, Encoder("app", "user"))


Publish = Callable[..., "asyncio.Task[bool]"]


@pytest.fixture
def publish(publisher: Publisher) -> Publish:
    async def confirmed(message_id: str) -> bool:
        return await publisher.publish("x", "k", Outgoing(b"body", "note", message_id=message_id))

    return lambda message_id="": asyncio.create_task(confirmed(message_id))


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
    far_end: FarEnd, publish: Publish
) -> None:
    tasks = [publish() for _ in range(5)]
    await turns()
    far_end.says(commands.Basic.Ack(2))
    await turns()
    assert outcomes(*tasks) == [None, True, None, None, None]
    far_end.says(commands.Basic.Ack(4, multiple=True))
    await turns()
    assert outcomes(*tasks) == [True, True, True, True, None]
    more = [publish() for _ in range(3)]
    await turns()
    far_end.says(commands.Basic.Nack(5))
    await turns()
    assert outcomes(tasks[4]) == [DeliveryError.__name__]
    far_end.says(commands.Basic.Nack(7, multiple=True))
    await turns()
    assert outcomes(*more) == [DeliveryError.__name__, DeliveryError.__name__, None]


async def test_what_comes_back_was_taken_by_no_queue_and_its_confirm_says_nothing_more(
    far_end: FarEnd, publish: Publish
) -> None:
    tasks = [publish(name) for name in ("a", "b", "b", "c")]
    await turns()
    far_end.returns("b")
    far_end.returns("b")
    far_end.returns("of somebody else")
    far_end.says(commands.Basic.Ack(4, multiple=True))
    await turns()
    assert outcomes(*tasks) == [True, False, False, True]


async def test_of_two_with_one_id_the_one_comes_back_whose_key_it_has(
    far_end: FarEnd, publisher: Publisher
) -> None:
    """A message that is parked has the id that a stranger gave it."""
    outgoing = Outgoing(b"body", "note", message_id="a")
    taken, returned = (publisher.publish("x", key, outgoing) for key in ("k", "l"))
    far_end.returns("a", "l")
    far_end.says(commands.Basic.Ack(2, multiple=True))
    assert (await taken, await returned) == (True, False)


async def test_no_frame_is_larger_than_the_broker_takes_and_what_is_told_comes_never_back() -> None:
    far_end = FarEnd(frame_max=4096)
    publisher = Publisher(far_end.channel, far_end.wire, Encoder("app", "user"))
    publisher.publish_unconfirmed("x", "k", Outgoing(b"x" * 10_000, "note"))
    sizes = [size for size, _ in far_end.frames]
    assert max(sizes) == 4096
    _, method = far_end.frames[0]
    assert isinstance(method, commands.Basic.Publish)
    assert not method.mandatory


async def test_a_message_without_an_id_is_known_when_it_comes_back(
    far_end: FarEnd, publish: Publish
) -> None:
    task = publish()
    await turns()
    _, _, head = frame.unmarshal(far_end.writes[0][far_end.writes[0].index(b"\xce") + 1 :])
    assert isinstance(head, header.ContentHeader)
    far_end.returns(str(head.properties.message_id))
    await turns()
    assert outcomes(task) == [False]


async def test_who_is_cancelled_is_missed_by_nobody(far_end: FarEnd, publish: Publish) -> None:
    tasks = [publish(name) for name in ("a", "b", "c")]
    await turns()
    tasks[0].cancel()
    tasks[1].cancel()
    await turns()
    far_end.returns("b")
    far_end.says(commands.Basic.Ack(1), commands.Basic.Ack(2), commands.Basic.Ack(3))
    await turns()
    assert (tasks[0].cancelled(), tasks[1].cancelled(), tasks[2].result()) == (True, True, True)
    assert far_end.heard.count("Basic.Publish") == 3


async def test_what_is_not_confirmed_in_time_is_given_up_and_later_ones_are_not(
    far_end: FarEnd, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.05)
    early = [publish(), publish()]
    await asyncio.wait(early)
    assert outcomes(*early) == ["TimeoutError"] * 2
    late = publish()
    await turns()
    far_end.says(commands.Basic.Ack(1))  # too late
    far_end.says(commands.Basic.Ack(3))
    assert await late
    unheard = [publish()]
    await asyncio.sleep(0.02)  # each has its own time
    unheard.append(publish())
    await asyncio.wait(unheard)
    assert outcomes(*unheard) == ["TimeoutError"] * 2


async def test_what_is_published_while_others_are_given_up_puts_nobody_s_time_off(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.3)
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
    far_end: FarEnd, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.01)
    task = publish()
    await turns()
    advance(0.02)
    loop = asyncio.get_running_loop()
    # It is read after the time was over: so a loop does that looks at its timers first.
    loop.call_soon(loop.call_soon, far_end.says, commands.Basic.Ack(1))
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
    far_end: FarEnd, publisher: Publisher, publish: Publish, reason: Any, said: type[Exception]
) -> None:
    tasks = [publish(), publish()]
    await turns()
    if reason is None:
        far_end.closing.cancel()
    else:
        far_end.closing.set_exception(reason)
    await turns()
    assert publisher.ended
    assert outcomes(*tasks) == [said.__name__] * 2


async def test_what_is_sent_in_one_turn_is_written_in_order_the_first_at_once(
    far_end: FarEnd, publisher: Publisher
) -> None:
    def tell(*texts: bytes) -> None:
        for text in texts:
            publisher.publish_unconfirmed("x", "k", Outgoing(text, "note"))

    tell(b"1")
    assert len(far_end.writes) == 1
    tell(b"2", b"3")
    assert len(far_end.writes) == 1
    await turns()
    tell(b"4")
    await turns()
    assert len(far_end.writes) == 3
    written = b"".join(far_end.writes)
    places = [written.index(b"\0\0\0\1" + text + b"\xce") for text in (b"1", b"2", b"3", b"4")]
    assert places == sorted(places)


async def test_on_a_connection_that_is_gone_nothing_is_written(
    far_end: FarEnd, publisher: Publisher
) -> None:
    far_end.gone = True
    with pytest.raises(AMQPConnectionError):
        publisher.publish_unconfirmed("x", "k", Outgoing(b"", "note"))
    await turns()
    assert far_end.writes == []


async def test_a_browser_that_gave_up_takes_no_late_answer_for_that_to_another_question(
    far_end: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.02)
    browser = ChannelBrowser(far_end.channel, far_end.wire, "q", lambda _: nullcontext())
    far_end.says(commands.Basic.GetEmpty())  # nobody asked
    with pytest.raises(TimeoutError):
        await browser.next_message()
    far_end.says(commands.Basic.GetEmpty())
    with pytest.raises(ChannelInvalidStateError):
        await browser.next_message()


async def test_a_browser_whose_channel_ends_hears_why(far_end: FarEnd) -> None:
    browser = ChannelBrowser(far_end.channel, far_end.wire, "q", lambda _: nullcontext())
    asking = asyncio.create_task(browser.next_message())
    await turns()
    far_end.closing.set_exception(ChannelClosed(404, "no queue"))
    with pytest.raises(ChannelClosed):
        await asking
