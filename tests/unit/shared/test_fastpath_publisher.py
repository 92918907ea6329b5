"""The publisher and the browser of the fast path: written frames, and outcomes of waits."""

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
from tests.support.event_loop import run_ready_tasks
from tests.support.fake_broker import FakeBroker
from tests.support.virtual_time import advance


@pytest.fixture
async def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
async def publisher(broker: FakeBroker) -> Publisher:
    return Publisher(broker.channel, broker.writer, Encoder("app", "user"))


Publish = Callable[..., "asyncio.Task[bool]"]


@pytest.fixture
def publish(publisher: Publisher) -> Publish:
    async def confirmed(message_id: str) -> bool:
        return await publisher.publish("x", "k", Outgoing(b"body", "note", message_id=message_id))

    return lambda message_id="": asyncio.create_task(confirmed(message_id))


def outcomes(*tasks: "asyncio.Task[bool]") -> list[bool | str | None]:
    """Return for each task its result, the name of its exception, or None if it is not done."""
    return [
        None
        if not task.done()
        else type(error).__name__
        if (error := task.exception())
        else task.result()
        for task in tasks
    ]


async def test_a_confirm_is_for_the_message_of_its_number_or_for_all_up_to_it(
    broker: FakeBroker, publish: Publish
) -> None:
    tasks = [publish() for _ in range(5)]
    await run_ready_tasks()
    broker.send(commands.Basic.Ack(2))
    await run_ready_tasks()
    assert outcomes(*tasks) == [None, True, None, None, None]
    broker.send(commands.Basic.Ack(4, multiple=True))
    await run_ready_tasks()
    assert outcomes(*tasks) == [True, True, True, True, None]
    more = [publish() for _ in range(3)]
    await run_ready_tasks()
    broker.send(commands.Basic.Nack(5))
    await run_ready_tasks()
    assert outcomes(tasks[4]) == [DeliveryError.__name__]
    broker.send(commands.Basic.Nack(7, multiple=True))
    await run_ready_tasks()
    assert outcomes(*more) == [DeliveryError.__name__, DeliveryError.__name__, None]


async def test_a_returned_message_is_unroutable_whatever_its_confirm_says(
    broker: FakeBroker, publish: Publish
) -> None:
    tasks = [publish(name) for name in ("a", "b", "b", "c")]
    await run_ready_tasks()
    broker.return_message("b")
    broker.return_message("b")
    broker.return_message("of another publisher")
    broker.send(commands.Basic.Ack(4, multiple=True))
    await run_ready_tasks()
    assert outcomes(*tasks) == [True, False, False, True]


async def test_of_two_messages_with_one_id_the_returned_one_is_found_by_its_key(
    broker: FakeBroker, publisher: Publisher
) -> None:
    """An unreadable message keeps its sender's id, so two messages may have one id."""
    outgoing = Outgoing(b"body", "note", message_id="a")
    taken, returned = (publisher.publish("x", key, outgoing) for key in ("k", "l"))
    broker.return_message("a", "l")
    broker.send(commands.Basic.Ack(2, multiple=True))
    assert (await taken, await returned) == (True, False)


async def test_frames_are_limited_in_size_and_unconfirmed_messages_are_not_mandatory() -> None:
    broker = FakeBroker(frame_max=4096)
    publisher = Publisher(broker.channel, broker.writer, Encoder("app", "user"))
    publisher.publish_unconfirmed("x", "k", Outgoing(b"x" * 10_000, "note"))
    sizes = [size for size, _ in broker.received]
    assert max(sizes) == 4096
    _, method = broker.received[0]
    assert isinstance(method, commands.Basic.Publish)
    assert not method.mandatory


async def test_a_returned_message_without_an_id_of_its_own_is_recognised(
    broker: FakeBroker, publish: Publish
) -> None:
    task = publish()
    await run_ready_tasks()
    _, _, head = frame.unmarshal(broker.writes[0][broker.writes[0].index(b"\xce") + 1 :])
    assert isinstance(head, header.ContentHeader)
    broker.return_message(str(head.properties.message_id))
    await run_ready_tasks()
    assert outcomes(task) == [False]


async def test_a_cancelled_publish_does_not_affect_the_others(
    broker: FakeBroker, publish: Publish
) -> None:
    tasks = [publish(name) for name in ("a", "b", "c")]
    await run_ready_tasks()
    tasks[0].cancel()
    tasks[1].cancel()
    await run_ready_tasks()
    broker.return_message("b")
    broker.send(commands.Basic.Ack(1), commands.Basic.Ack(2), commands.Basic.Ack(3))
    await run_ready_tasks()
    assert (tasks[0].cancelled(), tasks[1].cancelled(), tasks[2].result()) == (True, True, True)
    assert broker.received_names.count("Basic.Publish") == 3


async def test_a_publish_without_a_confirm_in_time_fails_and_later_ones_do_not(
    broker: FakeBroker, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.05)
    early = [publish(), publish()]
    await asyncio.wait(early)
    assert outcomes(*early) == ["TimeoutError"] * 2
    late = publish()
    await run_ready_tasks()
    broker.send(commands.Basic.Ack(1))  # too late
    broker.send(commands.Basic.Ack(3))
    assert await late
    unconfirmed = [publish()]
    await asyncio.sleep(0.02)  # each message has a time limit of its own
    unconfirmed.append(publish())
    await asyncio.wait(unconfirmed)
    assert outcomes(*unconfirmed) == ["TimeoutError"] * 2


async def test_a_publish_during_timeouts_of_others_does_not_postpone_them(
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


async def test_a_confirm_that_has_arrived_counts_even_if_the_process_was_stalled(
    broker: FakeBroker, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.01)
    task = publish()
    await run_ready_tasks()
    advance(0.02)
    loop = asyncio.get_running_loop()
    # The confirm is read after the time limit: a loop looks at its timers first.
    loop.call_soon(loop.call_soon, broker.send, commands.Basic.Ack(1))
    assert await task


@pytest.mark.parametrize(
    ("reason", "raised"),
    [
        (ChannelClosed(404, "no exchange"), ChannelClosed),
        (asyncio.CancelledError(), AMQPConnectionError),
        (None, AMQPConnectionError),
        (Exception(), AMQPConnectionError),
    ],
    ids=["channel", "connection", "cancelled", "no reason"],
)
async def test_the_end_of_a_channel_ends_every_publish_on_it_with_the_reason(
    broker: FakeBroker, publisher: Publisher, publish: Publish, reason: Any, raised: type[Exception]
) -> None:
    tasks = [publish(), publish()]
    await run_ready_tasks()
    if reason is None:
        broker.closing.cancel()
    else:
        broker.closing.set_exception(reason)
    await run_ready_tasks()
    assert publisher.ended
    assert outcomes(*tasks) == [raised.__name__] * 2


async def test_messages_of_one_loop_turn_are_written_in_order_and_the_first_at_once(
    broker: FakeBroker, publisher: Publisher
) -> None:
    def publish_texts(*texts: bytes) -> None:
        for text in texts:
            publisher.publish_unconfirmed("x", "k", Outgoing(text, "note"))

    publish_texts(b"1")
    assert len(broker.writes) == 1
    publish_texts(b"2", b"3")
    assert len(broker.writes) == 1
    await run_ready_tasks()
    publish_texts(b"4")
    await run_ready_tasks()
    assert len(broker.writes) == 3
    written = b"".join(broker.writes)
    positions = [written.index(b"\0\0\0\1" + text + b"\xce") for text in (b"1", b"2", b"3", b"4")]
    assert positions == sorted(positions)


async def test_nothing_is_written_on_a_closed_connection(
    broker: FakeBroker, publisher: Publisher
) -> None:
    broker.is_gone = True
    with pytest.raises(AMQPConnectionError):
        publisher.publish_unconfirmed("x", "k", Outgoing(b"", "note"))
    await run_ready_tasks()
    assert broker.writes == []


async def test_a_browser_never_takes_a_late_answer_for_that_to_a_later_request(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RPC_SECONDS", 0.02)
    browser = ChannelBrowser(broker.channel, broker.writer, "q", lambda _: nullcontext())
    broker.send(commands.Basic.GetEmpty())  # an answer without a request
    with pytest.raises(TimeoutError):
        await browser.next_message()
    broker.send(commands.Basic.GetEmpty())
    with pytest.raises(ChannelInvalidStateError):
        await browser.next_message()


async def test_a_browser_whose_channel_ends_raises_the_reason(broker: FakeBroker) -> None:
    browser = ChannelBrowser(broker.channel, broker.writer, "q", lambda _: nullcontext())
    asking = asyncio.create_task(browser.next_message())
    await run_ready_tasks()
    broker.closing.set_exception(ChannelClosed(404, "no queue"))
    with pytest.raises(ChannelClosed):
        await asking
