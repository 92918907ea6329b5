"""An outbox with a store and a wire in memory, and those who hear it."""

import asyncio

from skillq import topology
from skillq.messages import (
    Message,
    Task,
    TaskStatus,
    WorkerProfile,
    decode,
)
from skillq.transport import Consumer
from skillq.transport.memory import MemoryBroker
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.outbound.outbox import Outbox
from skillq_manager.store.memory import MemoryStore
from tests.support.factories import profile
from tests.unit.wire import Wire


class Office:
    """An outbox, and those who hear what it sends."""

    def __init__(self) -> None:
        self.wire = Wire(MemoryBroker())
        self.store = MemoryStore()
        self.fed: list[e.Event] = []
        self.current = self.alone = True
        self.outbox = Outbox(
            self.wire,
            self.store,
            self.fed.append,
            lambda *_: self.current,
            lambda: self.alone,
        )
        self.ada = profile("Ada")

    async def open(self) -> None:
        await self.wire.declare(topology.MANAGER)
        self.events = await self.wire.subscribe(topology.EVENTS, ["#"])

    async def give_queue(self, worker: WorkerProfile) -> Consumer:
        await self.wire.declare(topology.worker_topology(worker.name))
        return await self.wire.consume(topology.worker_queue(worker.name), prefetch=1000)

    async def store_tasks(self, *of: Task) -> None:
        await self.store.commit(
            [
                c.AddTask(("run", t.id), n, "run", t, 0, TaskStatus.READY, 0.0)
                for n, t in enumerate(of)
            ]
        )

    async def hand_over(self, decided: c.Decisions) -> None:
        await self.outbox.send(decided, self.outbox.event_messages(decided))

    async def send(self, *commands: c.Command) -> None:
        await self.hand_over(c.Decisions(commands))
        await self.outbox.flush(timeout=5)

    def assign(self, id: str, worker: WorkerProfile | None = None) -> c.Assign:
        return c.Assign(("run", id), "task", 1, worker or self.ada, 0.0)


async def said(consumer: Consumer) -> list[Message]:
    async with asyncio.timeout(5):
        deliveries = await consumer.batch()
    await consumer.ack(deliveries)
    return [decode(delivery.body) for delivery in deliveries]
