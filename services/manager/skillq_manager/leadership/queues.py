"""The manager's queues, which only one manager consumes at a time.

With two consumers, each manager would decide on half of the messages.
See docs/adr/0009-keep-leadership-in-a-row-with-an-epoch.md.
See docs/adr/0004-one-worker-per-name.md.
"""

import asyncio
from contextlib import AsyncExitStack

import structlog

from skillq import timings, topology
from skillq.errors import QueueInUse, UsageError
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Consumer, Transport
from skillq_manager.leadership.leader import renew_or_raise
from skillq_manager.leadership.probe import CONSUMED_QUEUES
from skillq_manager.store.base import LeaderLease

PREFETCH = 200  # more than `multipart.MAX_HELD_PARTS`, so that missing parts can arrive

log = structlog.get_logger()


class ManagerQueues:
    """Consumes the manager's queues exclusively, or with priority over an earlier leader.

    If managers share a store, the consumer of the newest leader gets the messages first, and the store refuses
    the commits of an older leader. Otherwise a hung leader would keep the queues for half a minute.
    """

    def __init__(self, transport: Transport, leadership: LeaderLease, clock: Clock) -> None:
        self._transport = transport
        self._leadership = leadership
        self._clock = clock
        self._lock_consumer: Consumer | None = None  # consumer of the exclusive queue

    @property
    def are_consumed(self) -> bool:
        """Return whether this manager consumes the queues."""
        return self._lock_consumer is not None

    @property
    def are_exclusively_ours(self) -> bool:
        """Return whether certainly no other manager consumes the queues."""
        return self._lock_consumer is not None and self._lock_consumer.live

    async def consume_all(self, stack: AsyncExitStack) -> dict[str, Consumer]:
        """Consume all queues until the stack exits; wait for an earlier leader to release them.

        Raises:
            LeadershipLost: another manager leads by now.
            UsageError: another manager keeps a queue, or another release declared it.
        """
        await self._transport.declare(topology.MANAGER)
        consumers: dict[str, Consumer] = {}
        for queue in CONSUMED_QUEUES:
            consumers[queue] = consumer = await self._consume(queue)
            stack.push_async_callback(consumer.close)
            self._lock_consumer = self._lock_consumer or consumer
        return consumers

    def forget_consumers(self) -> None:
        """Note that this manager does not consume the queues any more."""
        self._lock_consumer = None

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
                    after=self._lock_consumer,
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
