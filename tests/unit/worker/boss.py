"""The manager's end of a memory broker: gives orders to one worker, and hears what it says."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import uuid4

from skillq import topology
from skillq.errors import QueueInUse, TransportError
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
from skillq.transport import Consumer, Delivery, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq.transport.memory.queue import MemoryConsumer

SECONDS = 10.0
STORE = "store-1"

M = TypeVar("M")


def who(title: str = "ada", **more: object) -> WorkerProfile:
    fields = {"name": title, "title": title, "incarnation": uuid4().hex, "skill": 5}
    fields |= {"lease": {"heartbeat": 0.02}} | more
    return WorkerProfile.model_validate(fields)


def order(
    id: str = "a", attempt: int = 1, task_type: str = "task", **more: object
) -> TaskAssignment:
    fields = {"run": "default", "id": id, "attempt": attempt, "task_type": task_type}
    return TaskAssignment.model_validate({"difficulty": 1} | fields | more)


def ref(id: str = "a", attempt: int = 1) -> AttemptRef:
    return AttemptRef(run="default", id=id, attempt=attempt)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - what is waited for knows nothing of us
            await asyncio.sleep(0.002)


class _Lost(MemoryConsumer):
    """A consumer that may lose its queue as one does whose connection was gone for a while."""

    lost = False

    async def batch(self) -> list[Delivery]:
        try:
            return await super().batch()
        except TransportError as error:
            raise (QueueInUse("somebody has it") if self.lost else error) from error


class Fickle(MemoryTransport):
    """Its connection is gone for a while, and another consumer may have the queue then."""

    async def consume(self, queue: str, **more: Any) -> MemoryConsumer:
        consumer = await super().consume(queue, **more)
        consumer.__class__ = _Lost
        return consumer

    def lose(self, queue: str) -> None:
        for consumer in self._consumers:
            if consumer._queue.name == queue:
                assert isinstance(consumer, _Lost)
                consumer.lost = True
                consumer.close_now()


class Boss:
    def __init__(self, worker: WorkerProfile) -> None:
        self.broker = MemoryBroker()
        self.transport = MemoryTransport(self.broker, app_id="manager")
        self.worker = worker
        self.heard: list[Message] = []  # in the order of arrival
        self.dead: list[Delivery] = []
        self._ears: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Boss":
        await self.transport.__aenter__()
        await self.transport.declare(topology.MANAGER)
        for queue in (topology.MANAGER_REPORTS, topology.MANAGER_HEARTBEATS):
            consumer = await self.transport.consume(queue, prefetch=100)
            self._ears.append(asyncio.create_task(self._listen(consumer)))
        dead = await self.transport.consume(topology.DEAD_LETTERS, prefetch=100)
        self._ears.append(asyncio.create_task(self._bury(dead)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for ear in self._ears:
            ear.cancel()
        await asyncio.gather(*self._ears, return_exceptions=True)
        await self.transport.__aexit__(None, None, None)

    async def _listen(self, consumer: Consumer) -> None:
        while True:
            deliveries = await consumer.batch()
            self.heard += [decode(delivery.body) for delivery in deliveries]
            await consumer.ack(deliveries)

    async def _bury(self, consumer: Consumer) -> None:
        while True:
            deliveries = await consumer.batch()
            self.dead += deliveries
            await consumer.ack(deliveries)

    # --- orders

    async def give_queue(self) -> None:
        await self.transport.declare(topology.worker_topology(self.worker.name))

    async def tell(self, message: Message, key: str | None = None) -> None:
        key = key or f"{message.type}.{self.worker.name}"
        await self.transport.publish(topology.COMMANDS, key, Outgoing.from_message(message))

    async def assign(
        self, *tasks: TaskAssignment, store: str = STORE, incarnation: str | None = None
    ) -> None:
        incarnation = incarnation or self.worker.incarnation
        await self.tell(
            Assignments(worker=self.worker.name, incarnation=incarnation, store=store, tasks=tasks)
        )

    async def cancel(
        self,
        *attempts: AttemptRef,
        store: str = STORE,
        incarnation: str | None = None,
        waiting_only: bool = False,
    ) -> None:
        await self.tell(
            Cancel(
                worker=self.worker.name,
                incarnation=incarnation or self.worker.incarnation,
                store=store,
                attempts=attempts,
                waiting_only=waiting_only,
            )
        )

    async def recall(self, *attempts: AttemptRef, **more: Any) -> None:
        await self.cancel(*attempts, waiting_only=True, **more)

    async def stop(self, **more: object) -> None:
        meant = {"incarnations": (self.worker.incarnation,)}
        await self.tell(Stop.model_validate(meant | more), "stop.all")

    # --- what was heard

    def all(self, kind: type[M]) -> list[M]:
        return [message for message in self.heard if isinstance(message, kind)]

    @property
    def results(self) -> list[TaskResult]:
        return [result for report in self.all(TaskResults) for result in report.results]

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {result.id: result.outcome for result in self.results}

    async def hears(self, kind: type[M], count: int = 1) -> list[M]:
        await until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)

    async def has_results(self, count: int) -> list[TaskResult]:
        await until(lambda: len(self.results) >= count)
        return self.results
