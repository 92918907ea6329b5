"""The inbox: messages are checked against their queue, and taken together and in order."""

import asyncio

import pytest

from skillq import topology
from skillq.errors import MalformedMessage
from skillq.messages import Message, Probe, StatusQuery, Submission
from skillq.transport import Delivery, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.core import events as e
from skillq_manager.inbound.inbox import ALLOWED_TYPES, Inbox, read_inbound
from tests.support.factories import (
    connect,
    disconnect,
    heartbeat,
    profile,
    report,
    submission,
    task,
)


def delivery(message: Message, queue: str, key: str) -> Delivery:
    body = Outgoing.from_message(message).body
    return Delivery(body, message.type, queue, "x", key, False, {}, "1", "app", 1)


ADA = profile("Ada")
GOOD: dict[str, tuple[Message, str, str]] = {
    "submission": (submission(task()), topology.MANAGER_SUBMISSIONS, "submit.anyone"),
    "inquiry": (
        StatusQuery(submission_id="s", number=1, run="default"),
        topology.MANAGER_SUBMISSIONS,
        "submit.anyone",
    ),
    "connect": (connect("Ada"), topology.MANAGER_REPORTS, "connect.ada"),
    "disconnect": (disconnect(ADA), topology.MANAGER_REPORTS, "disconnect.ada"),
    "results": (report(ADA), topology.MANAGER_REPORTS, "result.ada"),
    "heartbeat": (heartbeat(ADA), topology.MANAGER_HEARTBEATS, "heartbeat.ada"),
}
GOOD.update((f"probe of {queue}", (Probe(), queue, "progress.manager")) for queue in ALLOWED_TYPES)


@pytest.mark.parametrize("name", GOOD)
def test_each_message_is_accepted_in_its_own_queue(name: str) -> None:
    message, queue, key = GOOD[name]
    assert read_inbound(delivery(message, queue, key)) == message


@pytest.mark.parametrize("name", [name for name in GOOD if "probe" not in name])
def test_no_message_is_accepted_in_another_queue(name: str) -> None:
    message, queue, key = GOOD[name]
    for other_queue in ALLOWED_TYPES:
        if other_queue != queue:
            with pytest.raises(MalformedMessage, match="does not belong in"):
                read_inbound(delivery(message, other_queue, key))


@pytest.mark.parametrize("name", ["connect", "disconnect", "results", "heartbeat"])
def test_a_worker_message_under_another_routing_key_is_unreadable(name: str) -> None:
    """The broker lets the user of a worker publish only under its own key, so the key proves the name."""
    message, queue, key = GOOD[name]
    with pytest.raises(MalformedMessage, match="a message of worker ada came under the key"):
        read_inbound(delivery(message, queue, key.replace("ada", "bob")))


async def test_all_received_messages_are_taken_at_once_and_in_order() -> None:
    broker = MemoryBroker()
    recorded: list[str] = []
    inbox = Inbox(recorded.append)
    async with MemoryTransport(broker) as transport:
        await transport.declare(topology.MANAGER)
        for n in range(20):
            message = Outgoing.from_message(connect(f"w{n}"))
            await transport.publish(topology.REPORTS, f"connect.w{n}", message)
        queue = topology.MANAGER_REPORTS
        receiving = asyncio.create_task(
            inbox.receive_from(queue, await transport.consume(queue, prefetch=100))
        )
        batch = await inbox.take_received(5)
        keys = [one.delivery.routing_key for _, received in batch.deliveries for one in received]
        assert keys == [f"connect.w{n}" for n in range(20)]
        assert set(recorded) == {queue}
        await _cancel([receiving])


async def test_a_round_limits_new_tasks_and_does_not_delay_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillq_manager.inbound.inbox._TASKS_PER_ROUND", 5)
    inbox = Inbox(lambda _: None)
    async with MemoryTransport(MemoryBroker()) as transport:
        await transport.declare(topology.MANAGER)
        for n in range(4):
            three_tasks = submission(*(task(f"{n}-{i}") for i in range(3)), run=f"run {n}")
            await transport.publish(
                topology.SUBMISSIONS, "submit.me", Outgoing.from_message(three_tasks)
            )
            query = StatusQuery(
                submission_id=three_tasks.submission_id, number=1, run=three_tasks.run
            )
            await transport.publish(topology.SUBMISSIONS, "submit.me", Outgoing.from_message(query))
        await transport.publish(topology.REPORTS, "result.ada", Outgoing.from_message(report(ADA)))
        queues = (topology.MANAGER_SUBMISSIONS, topology.MANAGER_REPORTS)
        receiving_tasks = [
            asyncio.create_task(
                inbox.receive_from(queue, await transport.consume(queue, prefetch=100))
            )
            for queue in queues
        ]
        for _ in range(3):
            await asyncio.sleep(0)  # both consumers have received all messages
        rounds = []
        while not inbox.is_empty:
            batch = await inbox.take_received(None)
            rounds.append([one.message for _, received in batch.deliveries for one in received])
        await _cancel(receiving_tasks)
    labels = [[_label(message) for message in one] for one in rounds]
    assert labels[0] == ["run-0", "inquiry", "run-1", "result"], (
        "no status query comes before its submission"
    )
    assert labels[1:] == [["inquiry", "run-2", "inquiry", "run-3"], ["inquiry"]]


def _label(message: Message | None) -> str:
    assert message is not None
    return message.run if isinstance(message, Submission) else message.type


async def _cancel(receiving_tasks: list[asyncio.Task[None]]) -> None:
    for receiving in receiving_tasks:
        receiving.cancel()
    await asyncio.gather(*receiving_tasks, return_exceptions=True)


async def test_an_empty_batch_is_taken_after_the_timeout() -> None:
    inbox = Inbox(lambda _: None)
    started = asyncio.get_running_loop().time()
    assert not await inbox.take_received(0.02)
    assert not await inbox.take_received(0)
    assert asyncio.get_running_loop().time() - started < 2


async def test_events_and_submissions_by_method_call_wake_the_inbox_and_are_taken_once() -> None:
    inbox = Inbox(lambda _: None)
    taking = asyncio.create_task(inbox.take_received(None))
    await asyncio.sleep(0)
    inbox.add_event(connect("Ada"))
    inbox.add_submission(submission(task()))
    batch = await taking
    assert batch
    assert (len(batch.events), len(batch.submissions)) == (1, 1)
    inbox.wake()
    assert not await inbox.take_received(None)


async def test_cleared_events_do_not_wake_the_inbox() -> None:
    inbox = Inbox(lambda _: None)
    inbox.add_event(e.HeartbeatsLost())
    inbox.clear()
    async with asyncio.timeout(5):
        waited = asyncio.create_task(inbox.take_received(None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waited.done()
        inbox.add_event(e.HeartbeatsRecovered())
        assert (await waited).events == [e.HeartbeatsRecovered()]
