"""The client: what it hands in is safe, answered and followed to its end, whatever is lost on the way."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skillq import topology
from skillq.client import Client, Receipt
from skillq.errors import Unreachable, UsageError
from skillq.messages import (
    RunEvent,
    RunStatus,
    Submission,
    Task,
    TaskEvent,
    TaskEvents,
    TaskStatus,
    decode,
)
from skillq.transport import Consumer, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport


class Desk:
    """What a client sees of a manager, as a test wants it."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.transport = MemoryTransport(broker)
        self.taken: list[Submission] = []
        self._queue: Consumer

    async def open(self) -> None:
        await self.transport.declare(topology.MANAGER)
        self._queue = await self.transport.consume(topology.MANAGER_SUBMISSIONS, prefetch=100)

    async def take(self) -> Submission:
        """The next submission; those that came with it are in `taken`, too."""
        deliveries = await self._queue.batch()
        await self._queue.ack(deliveries)
        messages = [decode(delivery.body) for delivery in deliveries]
        self.taken += [message for message in messages if isinstance(message, Submission)]
        return self.taken[-1]

    async def say(self, run: str, status: RunStatus, **more: object) -> None:
        event = RunEvent.model_validate(
            {"run": run, "title": run, "status": status, "at": 0} | more
        )
        await self.transport.publish(
            topology.EVENTS, f"run.{run}.{status}", Outgoing.of(event), mandatory=False
        )

    async def accept(self, submission: Submission) -> None:
        await self.say(
            submission.run,
            RunStatus.ACCEPTED,
            submission_id=submission.submission_id,
            accepted=len(submission.tasks),
        )

    async def end(self, run: str, *ids: str) -> None:
        events = tuple(
            TaskEvent(id=id, status=TaskStatus.SUCCEEDED, attempt=1, at=0, worker="Ada")
            for id in ids
        )
        message = TaskEvents(run=run, task_type="task", events=events)
        key = f"task.{run}.task.succeeded"
        await self.transport.publish(topology.EVENTS, key, Outgoing.of(message), mandatory=False)

    async def complete(self, run: str, count: int) -> None:
        await self.say(run, RunStatus.COMPLETED, counts={"succeeded": count})


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk(MemoryBroker())
    async with desk.transport:
        await desk.open()
        yield desk


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[Client]:
    async with MemoryTransport(desk.transport._broker) as transport:
        yield Client(transport, patience=0.3)


def task(id: str = "a", **more: object) -> Task:
    return Task.model_validate({"id": id, "difficulty": 1} | more)


async def test_a_submission_is_answered_with_how_many_are_new(desk: Desk, client: Client) -> None:
    running = asyncio.create_task(client.submit("Nightly 1", [task("a"), task("b")]))
    taken = await desk.take()
    assert (taken.run, taken.run_title) == ("nightly-1", "Nightly 1")
    assert [t.id for t in taken.tasks] == ["a", "b"]
    await desk.accept(taken)
    assert await running == Receipt(accepted=2, known=0)


async def test_without_an_answer_in_time_the_tasks_are_safe_all_the_same(
    desk: Desk, client: Client
) -> None:
    assert await client.submit("run", [task()], wait=0.05) is None
    assert (await desk.take()).tasks == (task(),)


async def test_a_refusal_is_raised_with_its_reason(desk: Desk, client: Client) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    taken = await desk.take()
    await desk.say("run", RunStatus.REFUSED, submission_id=taken.submission_id, reason="because")
    with pytest.raises(UsageError, match="because"):
        await running


async def test_a_run_is_followed_until_it_is_completed(desk: Desk, client: Client) -> None:
    seen: list[str] = []
    running = asyncio.create_task(
        client.complete("run", [task("a"), task("b")], lambda event: seen.append(event.id))
    )
    await desk.accept(await desk.take())
    await desk.end("run", "a")
    await desk.end("run", "b")
    await desk.complete("run", 2)
    result = await running
    assert seen == ["a", "b"]
    assert result.has_succeeded
    assert {id: event.worker for id, event in result.tasks.items()} == {"a": "Ada", "b": "Ada"}


async def test_another_submission_s_completion_before_ours_is_answered_does_not_end_it(
    desk: Desk, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    taken = await desk.take()
    await desk.complete("run", 7)
    await desk.say("run", RunStatus.ACCEPTED, submission_id="another", accepted=1)
    await asyncio.sleep(0.02)
    assert not running.done()
    await desk.accept(taken)
    await desk.complete("run", 8)
    assert (await running).counts == {TaskStatus.SUCCEEDED: 8}


async def test_events_of_another_run_are_not_ours(desk: Desk, client: Client) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await desk.accept(await desk.take())
    await desk.end("run-2", "a")
    await desk.complete("run-2", 1)
    await desk.complete("run", 1)
    assert not (await running).tasks


async def test_events_that_cannot_be_read_are_passed_over(desk: Desk, client: Client) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await desk.accept(await desk.take())
    for body in (b"?", b'{"type": "run_event", "schema_version": 9}', b'{"type": "stop"}'):
        await desk.transport.publish(topology.EVENTS, "run.run.x", Outgoing(body, "?"))
    await desk.complete("run", 1)
    assert (await running).has_succeeded


async def test_after_a_silence_the_question_is_asked_again_with_the_same_id(
    desk: Desk, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events may have been missed, as when the broker was restarted."""
    monkeypatch.setattr("skillq.client._SILENCE_SECONDS", 0.05)
    running = asyncio.create_task(client.complete("run", [task()]))
    first = await desk.take()
    second = await desk.take()
    assert second == first
    await desk.accept(second)
    await desk.complete("run", 1)
    assert (await running).has_succeeded


async def test_a_large_submission_is_cut_so_that_each_part_needs_only_earlier_ones(
    desk: Desk, client: Client
) -> None:
    big = {"x": "y" * 200_000}
    chain = [
        task(str(n), payload=big, depends_on=[str(n + 1)] if n < 11 else []) for n in range(12)
    ]
    running = asyncio.create_task(client.submit("run", chain))
    while sum(len(s.tasks) for s in desk.taken) < 12:
        await desk.take()
    assert len(desk.taken) > 1
    there: set[str] = set()
    for part in desk.taken:
        there |= {t.id for t in part.tasks}
        assert all(other in there for t in part.tasks for other in t.depends_on)
        await desk.accept(part)
    assert await running == Receipt(accepted=12, known=0)


async def test_a_manager_that_starts_later_is_waited_for() -> None:
    desk = Desk(MemoryBroker())
    async with desk.transport, MemoryTransport(desk.transport._broker) as transport:
        client = Client(transport, patience=10)
        running = asyncio.create_task(client.submit("run", [task()]))
        await asyncio.sleep(0.05)
        await desk.open()
        await desk.accept(await desk.take())
        assert await running == Receipt(1, 0)


async def test_a_manager_that_never_was_there_is_unreachable_and_the_remedy_is_said() -> None:
    async with MemoryTransport(MemoryBroker()) as transport:
        with pytest.raises(Unreachable) as caught:
            await Client(transport, patience=0.1).submit("run", [task()])
    assert str(caught.value).startswith("no manager has served this broker for 0.1 s (")
    assert str(caught.value).endswith("; start one: skillq manager")


async def test_tasks_that_no_manager_could_read_are_refused_before_they_are_sent(
    desk: Desk, client: Client
) -> None:
    deep: list[object] = []
    for _ in range(220):
        deep = [deep]
    with pytest.raises(UsageError, match="task a: its payload cannot be sent as JSON: "):
        await client.submit("run", [task("a", payload={"x": deep})])
    half = Task.model_construct(**(task().model_dump() | {"description": "\ud800"}))
    with pytest.raises(UsageError, match="task a: its payload cannot be sent as JSON: "):
        await client.submit("run", [half])
    assert not desk.taken


def test_a_client_s_name_makes_its_routing_key() -> None:
    with pytest.raises(ValueError, match="no letter"):
        Client(MemoryTransport(MemoryBroker()), name="…")
