"""Transports on the memory broker that fail as a test wants."""

from collections.abc import Callable
from typing import Any

from skillq.errors import QueueInUse, TransportError
from skillq.transport import Delivery, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq.transport.memory.queue import MemoryConsumer


class FaultInjectingTransport(MemoryTransport):
    """A transport whose publish fails when `should_fail` returns true for the routing key."""

    def __init__(self, broker: MemoryBroker, app_id: str = "manager") -> None:
        super().__init__(broker, app_id=app_id)
        self.should_fail: Callable[[str], bool] = lambda _: False
        self.failed_keys: list[str] = []

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        self._check(key)
        await super().publish(exchange, key, message)

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        self._check(key)
        await super().publish_unconfirmed(exchange, key, message)

    def _check(self, key: str) -> None:
        if self.should_fail(key):
            self.failed_keys.append(key)
            raise TransportError("the test says no")


class _LosableConsumer(MemoryConsumer):
    """A consumer that can lose its queue, like one whose connection was gone for a while."""

    is_lost = False

    async def batch(self) -> list[Delivery]:
        try:
            return await super().batch()
        except TransportError as error:
            raise (QueueInUse("another consumer has it") if self.is_lost else error) from error


class QueueLosingTransport(MemoryTransport):
    """A transport that can lose a queue: another consumer may take the queue then."""

    async def consume(self, queue: str, **options: Any) -> MemoryConsumer:
        consumer = await super().consume(queue, **options)
        consumer.__class__ = _LosableConsumer
        return consumer

    def lose_queue(self, queue: str) -> None:
        for consumer in self._consumers:
            if consumer._queue.name == queue:
                assert isinstance(consumer, _LosableConsumer)
                consumer.is_lost = True
                consumer.close_now()
