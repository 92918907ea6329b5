"""What has arrived is taken all at once, in order; what has no business here is told apart."""

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
def test_each_message_is_read_in_its_queue(name: str) -> None:
    message, queue, key = GOOD[name]
    assert read_inbound(delivery(message, queue, key)) == message


@pytest.mark.parametrize("name", [name for name in GOOD if "probe" not in name])
def test_no_message_is_read_in_another_s_queue(name: str) -> None:
    message, queue, key = GOOD[name]
    for other in ALLOWED_TYPES:
        if other != queue:
            with pytest.raises(MalformedMessage, match="does not belong in"):
                read_inbound(delivery(message, other, key))


@pytest.mark.parametrize("name", ["connect", "disconnect", "results", "heartbeat"])
def test_a_worker_speaks_under_no_key_but_its_own(name: str) -> None:
    """The broker lets a worker's user write under its own key only: so the key proves the name."""
    message, queue, key = GOOD[name]
    with pytest.raises(MalformedMessage, match="a message of worker ada came under the key"):
        read_inbound(delivery(message, queue, key.replace("ada", "bob")))


async def test_what_has_arrived_meanwhile_is_taken_at_once_and_in_order() -> None:
    broker = MemoryBroker()
    heard: list[str] = []
    inbox = Inbox(heard.append)
    async with MemoryTransport(broker) as transport:
        await transport.declare(topology.MANAGER)
        for n in range(20):
            message = Outgoing.from_message(connect(f"w{n}"))
            await transport.publish(topology.REPORTS, f"connect.w{n}", message)
        queue = topology.MANAGER_REPORTS
        pump = asyncio.create_task(
            inbox.receive_from(queue, await transport.consume(queue, prefetch=100))
        )
        intake = await inbox.take_received(5)
        keys = [one.delivery.routing_key for _, there in intake.deliveries for one in there]
        assert keys == [f"connect.w{n}" for n in range(20)]
        assert set(heard) == {queue}
        await _cancel([pump])


async def test_of_very_many_new_tasks_a_round_takes_some_and_what_has_ended_waits_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillq_manager.inbound.inbox._TASKS_PER_ROUND", 5)
    inbox = Inbox(lambda _: None)
    async with MemoryTransport(MemoryBroker()) as transport:
        await transport.declare(topology.MANAGER)
        for n in range(4):
            few = submission(*(task(f"{n}-{i}") for i in range(3)), run=f"run {n}")
            await transport.publish(topology.SUBMISSIONS, "submit.me", Outgoing.from_message(few))
            asked = StatusQuery(submission_id=few.submission_id, number=1, run=few.run)
            await transport.publish(topology.SUBMISSIONS, "submit.me", Outgoing.from_message(asked))
        await transport.publish(topology.REPORTS, "result.ada", Outgoing.from_message(report(ADA)))
        queues = (topology.MANAGER_SUBMISSIONS, topology.MANAGER_REPORTS)
        pumps = [
            asyncio.create_task(
                inbox.receive_from(queue, await transport.consume(queue, prefetch=100))
            )
            for queue in queues
        ]
        for _ in range(3):
            await asyncio.sleep(0)  # both have brought all that was there
        rounds = []
        while not inbox.is_empty:
            intake = await inbox.take_received(None)
            rounds.append([one.message for _, there in intake.deliveries for one in there])
        await _cancel(pumps)
    said = [[_said(message) for message in one] for one in rounds]
    assert said[0] == ["run-0", "inquiry", "run-1", "result"], (
        "nobody asks before who is asked about"
    )
    assert said[1:] == [["inquiry", "run-2", "inquiry", "run-3"], ["inquiry"]]


def _said(message: Message | None) -> str:
    assert message is not None
    return message.run if isinstance(message, Submission) else message.type


async def _cancel(pumps: list[asyncio.Task[None]]) -> None:
    for pump in pumps:
        pump.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)


async def test_after_the_time_an_empty_intake_is_taken() -> None:
    inbox = Inbox(lambda _: None)
    began = asyncio.get_running_loop().time()
    assert not await inbox.take_received(0.02)
    assert not await inbox.take_received(0)
    assert asyncio.get_running_loop().time() - began < 2


async def test_events_and_submissions_from_inside_wake_it_and_none_is_taken_twice() -> None:
    inbox = Inbox(lambda _: None)
    taking = asyncio.create_task(inbox.take_received(None))
    await asyncio.sleep(0)
    inbox.add_event(connect("Ada"))
    inbox.add_submission(submission(task()))
    intake = await taking
    assert intake
    assert (len(intake.events), len(intake.submissions)) == (1, 1)
    inbox.wake()
    assert not await inbox.take_received(None)


async def test_what_is_forgotten_wakes_nobody() -> None:
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
