"""A fake manager for one real worker on a memory broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

from skillq import topology
from skillq.messages import (
    Assignments,
    AttemptRef,
    Cancel,
    Message,
    Outcome,
    Stop,
    TaskAssignment,
    TaskResult,
    TaskResults,
    WorkerProfile,
    decode,
)
from skillq.transport import Consumer, Delivery, Outgoing, Transport
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_worker.execution.executor import Executor
from skillq_worker.worker import Worker
from tests.support.virtual_time import loop_clock
from tests.support.waiting import until_async

LONG_SECONDS = 10.0  # longer than an attempt of a test goes on by itself
SHORT_LEASE = {"heartbeat": 0.02, "suspect_after": 0.1, "dead_after": 0.4}  # in seconds
STORE_ID = "store-1"

M = TypeVar("M")


def worker_profile(title: str = "ada", **fields: object) -> WorkerProfile:
    defaults = {"name": title, "title": title, "incarnation": uuid4().hex, "skill": 5}
    defaults |= {"lease": {"heartbeat": 0.02}}
    return WorkerProfile.model_validate(defaults | fields)


def assignment(
    id: str = "a", attempt: int = 1, task_type: str = "task", **fields: object
) -> TaskAssignment:
    named = {"run": "default", "id": id, "attempt": attempt, "task_type": task_type}
    return TaskAssignment.model_validate({"difficulty": 1} | named | fields)


def attempt_ref(id: str = "a", attempt: int = 1) -> AttemptRef:
    return AttemptRef(run="default", id=id, attempt=attempt)


class FakeManager:
    """Sends messages to one worker as a test says, and collects all messages of the worker."""

    def __init__(self, worker: WorkerProfile) -> None:
        self.broker = MemoryBroker()
        self.transport = MemoryTransport(self.broker, app_id="manager")
        self.worker = worker
        self.messages: list[Message] = []  # in order of arrival
        self.unreadable: list[Delivery] = []
        self._receiving: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "FakeManager":
        await self.transport.__aenter__()
        await self.transport.declare(topology.MANAGER)
        for queue in (topology.MANAGER_REPORTS, topology.MANAGER_HEARTBEATS):
            consumer = await self.transport.consume(queue, prefetch=100)
            self._receiving.append(asyncio.create_task(self._receive(consumer)))
        dead_letters = await self.transport.consume(topology.DEAD_LETTERS, prefetch=100)
        self._receiving.append(asyncio.create_task(self._receive_unreadable(dead_letters)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for receiving in self._receiving:
            receiving.cancel()
        await asyncio.gather(*self._receiving, return_exceptions=True)
        await self.transport.__aexit__(None, None, None)

    async def _receive(self, consumer: Consumer) -> None:
        while True:
            deliveries = await consumer.batch()
            self.messages += [decode(delivery.body) for delivery in deliveries]
            await consumer.ack(deliveries)

    async def _receive_unreadable(self, consumer: Consumer) -> None:
        while True:
            deliveries = await consumer.batch()
            self.unreadable += deliveries
            await consumer.ack(deliveries)

    # --- messages to the worker

    async def declare_queue(self) -> None:
        await self.transport.declare(topology.worker_topology(self.worker.name))

    async def send(self, message: Message, key: str | None = None) -> None:
        key = key or f"{message.type}.{self.worker.name}"
        await self.transport.publish(topology.COMMANDS, key, Outgoing.from_message(message))

    async def assign(
        self, *tasks: TaskAssignment, store: str = STORE_ID, incarnation: str | None = None
    ) -> None:
        incarnation = incarnation or self.worker.incarnation
        await self.send(
            Assignments(worker=self.worker.name, incarnation=incarnation, store=store, tasks=tasks)
        )

    async def cancel(
        self,
        *attempts: AttemptRef,
        store: str = STORE_ID,
        incarnation: str | None = None,
        waiting_only: bool = False,
    ) -> None:
        await self.send(
            Cancel(
                worker=self.worker.name,
                incarnation=incarnation or self.worker.incarnation,
                store=store,
                attempts=attempts,
                waiting_only=waiting_only,
            )
        )

    async def recall(self, *attempts: AttemptRef, **options: Any) -> None:
        await self.cancel(*attempts, waiting_only=True, **options)

    async def stop(self, **fields: object) -> None:
        addressed = {"incarnations": (self.worker.incarnation,)}
        await self.send(Stop.model_validate(addressed | fields), "stop.all")

    # --- messages of the worker

    def received(self, message_type: type[M]) -> list[M]:
        return [message for message in self.messages if isinstance(message, message_type)]

    @property
    def results(self) -> list[TaskResult]:
        return [result for report in self.received(TaskResults) for result in report.results]

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {result.id: result.outcome for result in self.results}

    async def receive(self, message_type: type[M], count: int = 1) -> list[M]:
        """Wait until so many messages of this type have arrived; return all of this type."""
        await until_async(
            lambda: len(self.received(message_type)) >= count,
            f"{count} messages {message_type.__name__} should arrive",
        )
        return self.received(message_type)

    async def receive_results(self, count: int) -> list[TaskResult]:
        """Wait until so many results have arrived; return all."""
        await until_async(lambda: len(self.results) >= count, f"{count} results should arrive")
        return self.results


@asynccontextmanager
async def running_worker(
    manager: FakeManager,
    executor: Executor,
    *,
    grace: float = 30.0,
    transport: Transport | None = None,
    profile: WorkerProfile | None = None,
) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """Run a worker that is connected to the fake manager; stop the worker at the end."""
    await manager.declare_queue()
    async with transport or MemoryTransport(manager.broker) as opened:
        worker = Worker(
            opened, profile or manager.worker, executor, clock=loop_clock(), grace=grace
        )
        running = asyncio.create_task(worker.run())
        await until_async(
            lambda: worker.is_ready or running.done(), "the worker should be ready or end"
        )
        try:
            yield worker, running
            worker.stop(now=True)
            async with asyncio.timeout(10):
                await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
