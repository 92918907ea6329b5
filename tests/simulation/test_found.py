"""What seeds have found. A seed means another run after every change; the bug is told here for good."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

from skillq import topology
from skillq.client import Client
from skillq.messages import (
    RunEvent,
    RunStatus,
    StatusQuery,
    StatusReply,
    Submission,
    Task,
    TaskStatus,
    decode,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq.transport.memory.queue import MemoryConsumer
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.base import LiveRow
from skillq_manager.store.memory import MemoryStore
from tests.simulation.loop import VirtualLoop


def _run(story: Any) -> None:
    loop = VirtualLoop(Random(0))  # type: ignore[abstract]
    try:
        loop.run_until_complete(story)
    finally:
        loop.close()


async def _busy(transport: MemoryTransport) -> None:
    """Somebody else's submissions to the same run are refused, again and again."""
    refused = RunEvent(
        run="default", title="default", status=RunStatus.REFUSED, at=0.0, submission_id="another"
    )
    while True:
        await transport.publish(
            topology.EVENTS, "run.default.refused", Outgoing.from_message(refused)
        )
        await asyncio.sleep(3.0)


def test_what_others_do_in_a_run_is_no_answer_to_a_client() -> None:
    """Its submission was lost; their events kept it from asking again."""

    async def story() -> None:
        async with MemoryTransport(MemoryBroker()) as transport:
            await transport.declare(topology.MANAGER)
            consumer = await transport.consume(topology.MANAGER_SUBMISSIONS, prefetch=10)
            client = Client(transport, clock=asyncio.get_running_loop().time)
            task = Task(id="a", difficulty=1)
            done = asyncio.ensure_future(client.complete("default", [task]))
            noise = asyncio.ensure_future(_busy(transport))
            await consumer.ack(await consumer.batch())  # and nobody has read it
            async with asyncio.timeout(60.0):
                (question,) = await consumer.batch()
            asked = decode(question.body)
            assert isinstance(asked, StatusQuery)
            unknown = StatusReply(
                submission_id=asked.submission_id,
                number=asked.number,
                status=RunStatus.UNKNOWN,
                store="",
            )
            await transport.publish(
                topology.EVENTS, f"answer.{asked.submission_id}", Outgoing.from_message(unknown)
            )
            async with asyncio.timeout(60.0):
                (again,) = await consumer.batch()
            submission = decode(again.body)
            assert isinstance(submission, Submission)
            for event in _answers(submission.submission_id):
                await transport.publish(
                    topology.EVENTS, f"run.default.{event.status}", Outgoing.from_message(event)
                )
            assert (await done).has_succeeded
            noise.cancel()

    _run(story())


def _answers(id: str) -> list[RunEvent]:
    counts = {TaskStatus.SUCCEEDED: 1}
    return [
        RunEvent(
            run="default",
            title="default",
            status=status,
            at=0.0,
            submission_id=id,
            accepted=1,
            counts=counts,
        )
        for status in (RunStatus.ACCEPTED, RunStatus.COMPLETED)
    ]


class _TellingTransport(MemoryTransport):
    def __init__(self, told: list[str]) -> None:
        super().__init__(MemoryBroker())
        self._told = told

    async def consume(self, queue: str, **more: Any) -> MemoryConsumer:
        self._told.append(queue)
        return await super().consume(queue, **more)


class _TellingStore(MemoryStore):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    async def load(self, *, include_backlog: bool = True) -> AsyncIterator[list[LiveRow]]:
        self._told.append("load")
        async for rows in super().load(include_backlog=include_backlog):
            yield rows


def test_a_manager_reads_the_store_once_the_queues_are_its_own() -> None:
    """It had read, and then waited for its queues: another one had led meanwhile, and what it knew was stale."""
    told: list[str] = []

    async def ignore(run: str) -> None: ...

    async def story() -> None:
        store = _TellingStore(told)
        async with _TellingTransport(told) as transport:
            manager = Manager(
                transport,
                store,
                lambda: State(BestFit(), chance=lambda: 0.5, store=store.id),
                clock=asyncio.get_running_loop().time,
                on_complete=ignore,
            )
            running = asyncio.ensure_future(manager.run())
            while not manager.is_leading:  # noqa: ASYNC110 - what is waited for knows nothing of us
                await asyncio.sleep(0.1)
            manager.stop()
            await running

    _run(story())
    assert told[-1] == "load"
    assert len(told) == 4
