"""Probes that the manager's queues deliver: the manager sends messages to itself.

See docs/adr/0009-keep-leadership-in-a-row-with-an-epoch.md.
"""

import asyncio

import structlog

from skillq import timings, topology
from skillq.errors import TransportError, Unreachable, UsageError
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
    """Sends probes, and keeps when each queue last delivered (`last_delivery`, seconds)."""

    def __init__(self, transport: Transport, store: str, clock: Clock) -> None:
        self._transport = transport
        self._store = store
        self._clock = clock
        self._started_at = clock()
        self.last_delivery: dict[str, float] = {}

    def record_delivery(self, queue: str) -> None:
        """Record that a queue has delivered a message just now."""
        self.last_delivery[queue] = self._clock()

    @property
    def is_ready(self) -> bool:
        """Return whether the broker is connected, and each queue has delivered recently."""
        now = self._clock()
        return self._transport.connected and all(
            queue in self.last_delivery
            and now - self.last_delivery[queue] < timings.READY_WITHIN_SECONDS
            for queue in CONSUMED_QUEUES
        )

    @property
    def heartbeats_lost(self) -> bool:
        """Return whether not even this manager's own probes arrive through the heartbeat queue.

        Then the broker cannot be reached, or blocks publishers.
        """
        last = self.last_delivery.get(topology.MANAGER_HEARTBEATS, self._started_at)
        return (
            not self._transport.connected or self._clock() - last > timings.HEARTBEATS_LOST_SECONDS
        )

    def check_sender(self, probe: Probe) -> None:
        """Raise if another manager consumes our queues, and we lack the exclusive one.

        Raises:
            UsageError: the probe is of a manager with another store.
        """
        if probe.store not in {"", self._store} and self.heartbeats_lost:
            raise UsageError(
                "another manager, with another store, serves this broker; stop it, or use another vhost"
            )

    async def send_probes(self) -> None:
        """Send a probe through each queue every PROBE_SECONDS, for ever.

        Raises:
            UsageError: another release has declared the queues meanwhile.
        """
        while True:
            sent = await asyncio.gather(
                *(self._send_probe(exchange, key) for exchange, key in _PROBE_ROUTES)
            )
            if not all(sent) and self._transport.connected:
                await self._declare_queues()
            await asyncio.sleep(timings.PROBE_SECONDS)

    async def _send_probe(self, exchange: str, key: str) -> bool:
        probe = Outgoing.from_message(Probe(store=self._store), persistent=False)
        try:
            await self._transport.publish(exchange, key, probe)
        except TransportError as error:
            log.debug(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))
            return False
        return True

    async def _declare_queues(self) -> None:
        """Declare the queues again, if the broker lost them; their consumers wait for that."""
        try:
            await self._transport.declare(topology.MANAGER)
        except (TransportError, Unreachable) as error:  # Unreachable: permissions may come back
            log.debug(Log.PUBLISH_NOT_CONFIRMED, error=str(error))


# RabbitMQ ignores `exclusive` on quorum queues: the classic queue comes first and serves as the lock.
CONSUMED_QUEUES = (
    topology.MANAGER_HEARTBEATS,
    topology.MANAGER_REPORTS,
    topology.MANAGER_SUBMISSIONS,
)
