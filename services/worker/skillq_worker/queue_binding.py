"""A worker's hold on the queue of its name: taken alone, asked for where it is not there, watched over."""

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
    """`consumer` is None before the worker has said Connect, and where it has to say it anew."""

    def __init__(self, transport: Transport, profile: WorkerProfile, clock: Clock) -> None:
        self._transport = transport
        self._profile = profile
        self._clock = clock
        self.consumer: Consumer | None = None

    @property
    def is_attached(self) -> bool:
        return self.consumer is not None and self.consumer.live

    async def attach(self) -> None:
        """Consume the queue of this name, alone; ask the manager for it where it is not there yet.

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
                # The question was taken, and is answered soon: the pauses begin anew, once.
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
                await self._connect(ready=True)
                self.consumer = consumer
                log.info(Log.CONNECTED, worker=self._profile.title)
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, timings.CONSUME_LAST_RETRY_SECONDS)

    async def detach(self) -> None:
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            await consumer.close()

    async def attend(self) -> None:
        """Ask the manager for the queue whenever it is gone: somebody deleted it, or the broker lost it."""
        while True:
            await asyncio.sleep(timings.QUEUE_CHECK_SECONDS)
            if self.is_attached or self.consumer is None or not self._transport.connected:
                continue
            log.info(Log.WAITING_FOR_MANAGER, reason="its queue is gone")
            with suppress(TransportError):
                await self._transport.publish(*self._hello(ready=False))

    async def _consume(self) -> Consumer:
        queue = topology.worker_queue(self._profile.name)
        prefetch = 2 * self._profile.slots + 10
        try:
            return await self._transport.consume(queue, prefetch=prefetch, exclusive=True)
        except QueueNotFound:
            await self._transport.publish(*self._hello(ready=False))
            raise

    async def _connect(self, *, ready: bool) -> None:
        _, key, hello = self._hello(ready=ready)
        await publish_until_confirmed(self._transport, key, hello)

    def _hello(self, *, ready: bool) -> tuple[str, str, Outgoing]:
        hello = Outgoing.from_message(Connect(worker=self._profile, ready=ready))
        return topology.REPORTS, f"connect.{self._profile.name}", hello
