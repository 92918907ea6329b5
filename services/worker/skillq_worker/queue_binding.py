"""Consume a worker's queue exclusively; ask the manager for the queue if it is missing.

See docs/adr/0004-one-worker-per-name.md.
"""

import asyncio
from contextlib import suppress

import structlog

from skillq import timings, topology
from skillq.errors import QueueInUse, QueueNotFound, TransportError, UsageError
from skillq.messages import Connect, WorkerProfile
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Consumer, Outgoing, Transport
from skillq_worker.reporter import publish_until_confirmed

log = structlog.get_logger()


class QueueBinding:
    """The worker's exclusive consumer of its queue.

    `consumer` is None until the worker has attached, and again after `detach`.
    """

    def __init__(self, transport: Transport, profile: WorkerProfile, clock: Clock) -> None:
        self._transport = transport
        self._profile = profile
        self._clock = clock
        self.consumer: Consumer | None = None

    @property
    def is_attached(self) -> bool:
        """Whether the worker consumes its queue now."""
        return self.consumer is not None and self.consumer.live

    async def attach(self) -> None:
        """Consume the worker's queue exclusively, and report that the worker is ready.

        While the queue is missing, ask the manager for the queue and try again.

        Raises:
            UsageError: another worker of this name is connected.
        """
        give_up_at = self._clock() + timings.TAKE_OVER_SECONDS
        delay = timings.CONSUME_FIRST_RETRY_SECONDS
        has_asked = False
        while True:
            try:
                consumer = await self._consume()
            except QueueNotFound as error:
                log.info(Log.WAITING_FOR_MANAGER, reason=str(error))
                # The broker has accepted the request, and the manager answers soon: the back-off restarts, once.
                delay, has_asked = delay if has_asked else timings.CONSUME_FIRST_RETRY_SECONDS, True
            except QueueInUse as error:
                if self._clock() > give_up_at:
                    raise UsageError(
                        f"a worker named {self._profile.title!r} is connected already; choose another --name"
                    ) from error
                log.warning(
                    Log.WAITING_FOR_QUEUE,
                    worker=self._profile.title,
                    reason="a worker of this name is connected, or the broker does not know yet that it is gone",
                    leaves_in=round(give_up_at - self._clock()),
                )
            except TransportError as error:
                log.info(Log.WAITING_FOR_MANAGER, reason=str(error))
            else:
                await self._publish_connect(ready=True)
                self.consumer = consumer
                log.info(Log.CONNECTED, worker=self._profile.title)
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, timings.CONSUME_LAST_RETRY_SECONDS)

    async def detach(self) -> None:
        """Stop consuming the queue."""
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            await consumer.close()

    async def watch_queue(self) -> None:
        """Ask the manager for the queue whenever the queue is gone; run until cancelled.

        The queue is gone when somebody has deleted it, or when the broker has lost it.
        """
        while True:
            await asyncio.sleep(timings.QUEUE_CHECK_SECONDS)
            if self.is_attached or self.consumer is None or not self._transport.connected:
                continue
            log.info(Log.WAITING_FOR_MANAGER, reason="its queue is gone")
            with suppress(TransportError):
                await self._transport.publish(*self._connect_message(ready=False))

    async def _consume(self) -> Consumer:
        queue = topology.worker_queue(self._profile.name)
        prefetch = 2 * self._profile.slots + 10
        try:
            return await self._transport.consume(queue, prefetch=prefetch, exclusive=True)
        except QueueNotFound:
            await self._transport.publish(*self._connect_message(ready=False))
            raise

    async def _publish_connect(self, *, ready: bool) -> None:
        _, key, message = self._connect_message(ready=ready)
        await publish_until_confirmed(self._transport, key, message)

    def _connect_message(self, *, ready: bool) -> tuple[str, str, Outgoing]:
        message = Outgoing.from_message(Connect(worker=self._profile, ready=ready))
        return topology.REPORTS, f"connect.{self._profile.name}", message
