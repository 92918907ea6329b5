"""The memory transport: a broker inside the process, with the semantics of RabbitMQ."""

from skillq.transport.memory.broker import MemoryBroker, MemoryTransport

__all__ = ["MemoryBroker", "MemoryTransport"]
