"""A simulated connection to the broker, a consumer channel on it, and the faults of the network."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillq.transport.base import Delivery
from skillq.transport.memory.queue import MemoryConsumer
from skillq.transport.reconnecting import ChannelSession

if TYPE_CHECKING:
    from tests.simulation.network import Network


@dataclass(slots=True)
class NetworkFaults:
    """The faults of messages, as probabilities, and times in seconds."""

    latency: float = 0.01
    lost: float = 0.0  # on the way to the broker, so no confirm comes
    unconfirmed: float = 0.0  # the message arrives, but its confirm does not
    forgotten: float = 0.0  # the message is confirmed, but never arrives
    doubled: float = 0.0
    late: float = 0.0
    late_by: float = 20.0
    crashes: float = 0.0  # the publisher dies just before or after the message


class Connection:
    """A connection. After a loss, the transport opens another."""

    def __init__(self) -> None:
        self.is_connected = True  # messages pass in both directions
        self.is_open = True  # as the client sees the connection
        self.pending: dict[asyncio.Future[Any], None] = {}
        self.sessions: list[ChannelSession] = []
        self.consumers: list[tuple[MemoryConsumer, ChannelSession | None]] = []


class ConsumerChannel:
    """A consumer channel. Requests of the client arrive in order, unless the connection is cut."""

    def __init__(
        self, network: "Network", connection: Connection, consumer: MemoryConsumer
    ) -> None:
        self._network = network
        self._connection = connection
        self._consumer = consumer
        self._arrives_at = 0.0
        self.tags: dict[int, Delivery] = {}

    async def ack(self, tag: int, *, multiple: bool) -> None:
        self._send(self._ack, tag, multiple)
        await asyncio.sleep(0)

    async def nack(self, tag: int, *, requeue: bool) -> None:
        self._send(self._nack, tag, requeue)
        await asyncio.sleep(0)

    async def close(self) -> None:
        self._send(self._close)
        await asyncio.sleep(0)

    def _send(self, request: Callable[..., object], *args: object) -> None:
        now = self._network.loop.time()
        self._arrives_at = max(self._arrives_at, now + self._network.delay())
        self._network.process.call_later(self._arrives_at - now, self._arrive, request, args)

    def _arrive(self, request: Callable[..., object], args: tuple[object, ...]) -> None:
        if self._connection.is_connected:
            request(*args)

    def _ack(self, tag: int, multiple: bool) -> None:
        tags = [one for one in self.tags if one <= tag] if multiple else [tag]
        deliveries = [self.tags.pop(one) for one in tags if one in self.tags]
        self._network.process.start(self._consumer.ack(deliveries))

    def _nack(self, tag: int, requeue: bool) -> None:
        if tag in self.tags:
            self._network.process.start(self._consumer.nack(self.tags.pop(tag), requeue=requeue))

    def _close(self) -> None:
        self._consumer.close_now()
