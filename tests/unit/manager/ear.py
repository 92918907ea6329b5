"""What a test hears from the manager, and what it hands in past the client."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from skillq import topology
from skillq.messages import (
    Message,
    RunEvent,
    RunStatus,
    StatusReply,
    decode,
)
from skillq.transport import Consumer, Outgoing
from skillq_manager.store.base import TaskFilter
from tests.unit.manager.plant import Plant


class Ear:
    """Hears all that goes through an exchange."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.heard: list[Message] = []

    async def listen(self) -> None:
        while True:
            deliveries = await self._consumer.batch()
            await self._consumer.ack(deliveries)
            self.heard += [decode(delivery.body) for delivery in deliveries]

    def of(self, *kinds: type[Message]) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kinds)]

    def standings(self) -> list[StatusReply]:
        return [m for m in self.heard if isinstance(m, StatusReply)]

    def answers(self, status: RunStatus) -> list[RunEvent]:
        return [m for m in self.heard if isinstance(m, RunEvent) and m.status is status]


@asynccontextmanager
async def listening(plant: Plant, exchange: str) -> AsyncIterator[Ear]:
    ear = Ear(await plant.voice.subscribe(exchange, ["#"]))
    listens = asyncio.create_task(ear.listen())
    try:
        yield ear
    finally:
        listens.cancel()
        await asyncio.gather(listens, return_exceptions=True)


async def put(plant: Plant, messages: Sequence[Outgoing]) -> None:
    for message in messages:
        await plant.voice.publish(topology.SUBMISSIONS, "submit.x", message)


async def stored(plant: Plant, run: str = "default") -> list[str]:
    return [row.task.id for row in await plant.store.tasks(TaskFilter(run=run))]


def waiting(plant: Plant) -> int:
    """Messages that are with the broker: ready, or not acknowledged."""
    queue = plant.broker._queues[topology.MANAGER_SUBMISSIONS]
    return len(queue._ready) + sum(len(consumer._unacked) for consumer in queue.consumers)
