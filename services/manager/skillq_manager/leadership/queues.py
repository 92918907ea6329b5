"""The manager's queues, which one manager consumes at a time: two would each decide over half of what arrives."""

import asyncio
from contextlib import AsyncExitStack

import structlog

from skillq import timings, topology
from skillq.errors import QueueInUse, UsageError
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Consumer, Transport
from skillq_manager.leadership.probe import CONSUMED_QUEUES
from skillq_manager.store.base import LeaderLease, LeadershipLost

PREFETCH = 200  # more than the parts of submissions that may wait for the rest

log = structlog.get_logger()


async def renew_or_raise(leadership: LeaderLease) -> None:
    """Stay the leader.

    Raises:
        LeadershipLost: another one is.
    """
    if not await leadership.acquire():
        raise LeadershipLost("another manager has taken the lead")


class ManagerQueues:
    """Where managers share a store, a hung leader would keep its heir from the queues for half a minute:
    there the newest leader is served first, and the store refuses what the old one decides.
    """

    def __init__(self, transport: Transport, leadership: LeaderLease, clock: Clock) -> None:
        self._transport = transport
        self._leadership = leadership
        self._clock = clock
        self._lock: Consumer | None = None  # of the queue that only one manager can have

    @property
    def are_taken(self) -> bool:
        return self._lock is not None

    @property
    def are_ours(self) -> bool:
        """Certainly: no other manager has taken them from us."""
        return self._lock is not None and self._lock.live

    async def consume_all(self, stack: AsyncExitStack) -> dict[str, Consumer]:
        """Consume them all, until the stack is left; wait for a predecessor to let them go.

        Raises:
            LeadershipLost: another manager leads by now.
            UsageError: another manager keeps one of them, or it was declared by another release.
        """
        await self._transport.declare(topology.MANAGER)
        consumers: dict[str, Consumer] = {}
        for queue in CONSUMED_QUEUES:
            consumers[queue] = consumer = await self._consume(queue)
            stack.push_async_callback(consumer.close)
            self._lock = self._lock or consumer
        return consumers

    def forget(self) -> None:
        self._lock = None

    async def _consume(self, queue: str) -> Consumer:
        epoch = self._leadership.epoch
        give_up_at = self._clock() + timings.TAKE_OVER_SECONDS
        while True:
            await renew_or_raise(self._leadership)  # the wait may be longer than the lease
            try:
                return await self._transport.consume(
                    queue,
                    prefetch=PREFETCH,
                    exclusive=not epoch,
                    priority=epoch,
                    after=self._lock,
                )
            except QueueInUse as error:
                if self._clock() > give_up_at:
                    raise UsageError(
                        f"another manager consumes {queue} on this broker; stop it, or use another vhost"
                    ) from error
                log.warning(
                    Log.WAITING_FOR_QUEUE,
                    queue=queue,
                    reason="another manager consumes it, or the broker does not know yet that it is gone",
                    leaves_in=round(give_up_at - self._clock()),
                )
                await asyncio.sleep(timings.TAKE_OVER_RETRY_SECONDS)
