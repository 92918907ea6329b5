"""An outbox on a memory broker and a memory store."""

import asyncio

from skillq import topology
from skillq.messages import Message, Task, TaskStatus, WorkerProfile, decode
from skillq.transport import Consumer
from skillq.transport.memory import MemoryBroker
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.outbound.outbox import Outbox
from skillq_manager.store.memory import MemoryStore
from tests.support.factories import profile
from tests.support.fault_injecting_transport import FaultInjectingTransport


class OutboxHarness:
    """An outbox, the events that the outbox reports to the core, and a consumer of published events."""

    def __init__(self) -> None:
        self.transport = FaultInjectingTransport(MemoryBroker())
        self.store = MemoryStore()
        self.core_events: list[e.Event] = []
        self.is_current = self.may_assign = True
        self.outbox = Outbox(
            self.transport,
            self.store,
            self.core_events.append,
            lambda *_: self.is_current,
            lambda: self.may_assign,
        )
        self.ada = profile("Ada")

    async def open(self) -> None:
        await self.transport.declare(topology.MANAGER)
        self.event_consumer = await self.transport.subscribe(topology.EVENTS, ["#"])

    async def declare_queue(self, worker: WorkerProfile) -> Consumer:
        await self.transport.declare(topology.worker_topology(worker.name))
        return await self.transport.consume(topology.worker_queue(worker.name), prefetch=1000)

    async def store_tasks(self, *tasks: Task) -> None:
        await self.store.commit(
            [
                c.AddTask(("run", t.id), n, "run", t, 0, TaskStatus.READY, 0.0)
                for n, t in enumerate(tasks)
            ]
        )

    async def send_decisions(self, decisions: c.Decisions) -> None:
        await self.outbox.send(decisions, self.outbox.event_messages(decisions))

    async def send(self, *commands: c.Command) -> None:
        """Send the commands and wait until the outbox is empty."""
        await self.send_decisions(c.Decisions(commands))
        await self.outbox.flush(timeout=5)

    def assign(self, id: str, worker: WorkerProfile | None = None) -> c.Assign:
        return c.Assign(("run", id), "task", 1, worker or self.ada, 0.0)


async def receive(consumer: Consumer) -> list[Message]:
    """Return the next messages of a consumer, and acknowledge them."""
    async with asyncio.timeout(5):
        deliveries = await consumer.batch()
    await consumer.ack(deliveries)
    return [decode(delivery.body) for delivery in deliveries]
