"""One connection to the simulated broker, a consuming channel on it, and what may happen to both."""

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
class Faults:
    """What happens to messages; probabilities, and seconds."""

    latency: float = 0.01
    lost: float = 0.0  # on the way to the broker: no confirm comes
    unconfirmed: float = 0.0  # it arrives, and no confirm comes
    forgotten: float = 0.0  # confirmed, and yet it never arrives
    doubled: float = 0.0
    late: float = 0.0
    late_by: float = 20.0
    crashes: float = 0.0  # the publisher dies right before or after


class Link:
    """One connection; another comes after it."""

    def __init__(self) -> None:
        self.passes = True  # what is sent arrives
        self.is_open = True  # as its client believes
        self.pending: dict[asyncio.Future[Any], None] = {}
        self.sessions: list[ChannelSession] = []
        self.consumers: list[tuple[MemoryConsumer, ChannelSession | None]] = []


class Channel:
    """A consuming channel: what its client says arrives in order, unless the connection is cut."""

    def __init__(self, network: "Network", link: Link, consumer: MemoryConsumer) -> None:
        self._network = network
        self._link = link
        self._consumer = consumer
        self._arrives_at = 0.0
        self.tags: dict[int, Delivery] = {}

    async def ack(self, tag: int, *, multiple: bool) -> None:
        self._say(self._ack, tag, multiple)
        await asyncio.sleep(0)

    async def nack(self, tag: int, *, requeue: bool) -> None:
        self._say(self._nack, tag, requeue)
        await asyncio.sleep(0)

    async def close(self) -> None:
        self._say(self._close)
        await asyncio.sleep(0)

    def _say(self, what: Callable[..., object], *args: object) -> None:
        now = self._network.loop.time()
        self._arrives_at = max(self._arrives_at, now + self._network.delay())
        self._network.process.later(self._arrives_at - now, self._hear, what, args)

    def _hear(self, what: Callable[..., object], args: tuple[object, ...]) -> None:
        if self._link.passes:
            what(*args)

    def _ack(self, tag: int, multiple: bool) -> None:
        tags = [one for one in self.tags if one <= tag] if multiple else [tag]
        deliveries = [self.tags.pop(one) for one in tags if one in self.tags]
        self._network.process.start(self._consumer.ack(deliveries))

    def _nack(self, tag: int, requeue: bool) -> None:
        if tag in self.tags:
            self._network.process.start(self._consumer.nack(self.tags.pop(tag), requeue=requeue))

    def _close(self) -> None:
        self._consumer.close_now()
