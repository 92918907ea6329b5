"""Whether the manager can hear: messages to itself through each of its queues."""

import asyncio

import structlog

from skillq import timings, topology
from skillq.errors import TransportError, Unreachable
from skillq.messages import Probe
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Outgoing, Transport

_PROBE_ROUTES = (
    (topology.SUBMISSIONS, "submit.manager"),
    (topology.REPORTS, "progress.manager"),
    (topology.REPORTS, "heartbeat.manager"),
)

log = structlog.get_logger()


class QueueProbe:
    """`heard` says when something last came out of which queue."""

    def __init__(self, transport: Transport, store: str, clock: Clock) -> None:
        self._transport = transport
        self._store = store
        self._clock = clock
        self._since = clock()
        self.last_delivery: dict[str, float] = {}

    def record_delivery(self, queue: str) -> None:
        self.last_delivery[queue] = self._clock()

    @property
    def is_ready(self) -> bool:
        """The broker is connected, and each consumer has lately brought something."""
        now = self._clock()
        return self._transport.connected and all(
            queue in self.last_delivery
            and now - self.last_delivery[queue] < timings.READY_WITHIN_SECONDS
            for queue in CONSUMED_QUEUES
        )

    @property
    def heartbeats_lost(self) -> bool:
        """Heartbeats, even our own, do not arrive: the broker is away, or blocks publishers."""
        last = self.last_delivery.get(topology.MANAGER_HEARTBEATS, self._since)
        return (
            not self._transport.connected or self._clock() - last > timings.HEARTBEATS_LOST_SECONDS
        )

    async def probe(self) -> None:
        """Send messages to oneself, for ever; news only when nothing else comes.

        Raises:
            UsageError: our queues were declared by another release meanwhile.
        """
        while True:
            sent = await asyncio.gather(
                *(self._send(exchange, key) for exchange, key in _PROBE_ROUTES)
            )
            if not all(sent) and self._transport.connected:
                await self._declare()
            await asyncio.sleep(timings.PROBE_SECONDS)

    async def _send(self, exchange: str, key: str) -> bool:
        probe = Outgoing.from_message(Probe(store=self._store), persistent=False)
        try:
            await self._transport.publish(exchange, key, probe)
        except TransportError as error:
            log.debug(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))
            return False
        return True

    async def _declare(self) -> None:
        """What a broker has lost, or somebody has deleted, is made anew; its consumers wait for it."""
        try:
            await self._transport.declare(topology.MANAGER)
        except (TransportError, Unreachable) as error:  # it may get its permissions back, too
            log.debug(Log.PUBLISH_NOT_CONFIRMED, error=str(error))


# RabbitMQ takes no notice of `exclusive` on quorum queues: the classic one comes first, and is the lock.
CONSUMED_QUEUES = (
    topology.MANAGER_HEARTBEATS,
    topology.MANAGER_REPORTS,
    topology.MANAGER_SUBMISSIONS,
)
