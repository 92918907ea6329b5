"""Tests of bugs that seeds have found. A seed gives another run after each change of the code."""

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
from tests.support.waiting import until_async


def _run(scenario: Any) -> None:
    loop = VirtualLoop(Random(0))  # type: ignore[abstract]
    try:
        loop.run_until_complete(scenario)
    finally:
        loop.close()


async def _publish_refusals(transport: MemoryTransport) -> None:
    """Publish refusals of another client's submissions to the same run."""
    refused = RunEvent(
        run="default", title="default", status=RunStatus.REFUSED, at=0.0, submission_id="another"
    )
    while True:
        await transport.publish(
            topology.EVENTS, "run.default.refused", Outgoing.from_message(refused)
        )
        await asyncio.sleep(3.0)


def test_events_of_other_submissions_do_not_stop_a_clients_status_query() -> None:
    """The submission was lost, and events of others kept the client from its status query."""

    async def scenario() -> None:
        async with MemoryTransport(MemoryBroker()) as transport:
            await transport.declare(topology.MANAGER)
            consumer = await transport.consume(topology.MANAGER_SUBMISSIONS, prefetch=10)
            client = Client(transport, clock=asyncio.get_running_loop().time)
            task = Task(id="a", difficulty=1)
            done = asyncio.ensure_future(client.complete("default", [task]))
            refusals = asyncio.ensure_future(_publish_refusals(transport))
            await consumer.ack(await consumer.batch())  # the submission is lost
            async with asyncio.timeout(60.0):
                (question,) = await consumer.batch()
            query = decode(question.body)
            assert isinstance(query, StatusQuery)
            unknown = StatusReply(
                submission_id=query.submission_id,
                number=query.number,
                status=RunStatus.UNKNOWN,
                store="",
            )
            await transport.publish(
                topology.EVENTS, f"answer.{query.submission_id}", Outgoing.from_message(unknown)
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
            refusals.cancel()

    _run(scenario())


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


class _RecordingTransport(MemoryTransport):
    def __init__(self, calls: list[str]) -> None:
        super().__init__(MemoryBroker())
        self._calls = calls

    async def consume(self, queue: str, **more: Any) -> MemoryConsumer:
        self._calls.append(queue)
        return await super().consume(queue, **more)


class _RecordingStore(MemoryStore):
    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self._calls = calls

    async def load(self, *, include_backlog: bool = True) -> AsyncIterator[list[LiveRow]]:
        self._calls.append("load")
        async for rows in super().load(include_backlog=include_backlog):
            yield rows


def test_a_manager_loads_the_store_only_after_it_has_its_queues() -> None:
    """A manager had loaded first and then waited for its queues, while another manager led."""
    calls: list[str] = []

    async def ignore(run: str) -> None: ...

    async def scenario() -> None:
        store = _RecordingStore(calls)
        async with _RecordingTransport(calls) as transport:
            manager = Manager(
                transport,
                store,
                lambda: State(BestFit(), chance=lambda: 0.5, store=store.id),
                clock=asyncio.get_running_loop().time,
                on_complete=ignore,
            )
            running = asyncio.ensure_future(manager.run())
            await until_async(lambda: manager.is_leading, "the manager should lead")
            manager.stop()
            await running

    _run(scenario())
    assert calls[-1] == "load"
    assert len(calls) == 4
