"""A channel that consumes, and one that looks."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import cast

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelInvalidStateError
from pamqp.base import Frame
from pamqp.commands import Basic

from skillq import timings
from skillq.transport.base import Delivery
from skillq.transport.rabbitmq.connection import RabbitConnection
from skillq.transport.rabbitmq.fastpath.channel import FastChannel, FrameWriter
from skillq.transport.rabbitmq.fastpath.decode import read_delivery
from skillq.transport.rabbitmq.fastpath.reader import index_of
from skillq.transport.reconnecting import ChannelSession

_GET_EMPTY = index_of(Basic.GetEmpty)


class _ConsumerChannel(FastChannel):
    """A consuming channel that takes what its broker no longer wants to hear for said."""

    def __init__(self, channel: AbstractChannel, wire: FrameWriter) -> None:
        super().__init__(channel, wire)
        self.session = ChannelSession(self)
        self.queue = ""
        channel.on_consumer_cancel_callbacks.add(lambda _: self.session.end())

    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        if not self.session.ended.is_set():
            self.session.add_delivery(
                *read_delivery(method, header, body, self.queue, self.session)
            )

    def on_closed(self, reason: Exception) -> None:
        self.session.end()

    async def ack(self, tag: int, *, multiple: bool) -> None:
        self.send(Basic.Ack(tag, multiple))

    async def nack(self, tag: int, *, requeue: bool) -> None:
        self.send(Basic.Nack(tag, requeue=requeue))


# Finds or makes the queue to consume, on the channel that will consume it, and names it.
Find = Callable[[AbstractChannel], Awaitable[str]]


async def open_session(
    link: RabbitConnection, find: Find, prefetch: int, exclusive: bool, priority: int
) -> ChannelSession:
    channel, wire = await link.channel()
    lane = _ConsumerChannel(channel, wire)
    try:
        await channel.basic_qos(prefetch_count=prefetch, timeout=timings.RPC_SECONDS)
        lane.queue = await find(channel)
        await channel.basic_consume(
            lane.queue,
            _never,
            exclusive=exclusive,
            arguments={"x-priority": priority} if priority else None,
            timeout=timings.RPC_SECONDS,
        )
    except BaseException:
        await lane.close()
        raise
    return lane.session


async def _never(_: DeliveredMessage) -> None:
    """The driver sees no delivery."""


Translated = Callable[[str], AbstractContextManager[None]]


class ChannelBrowser(FastChannel):
    """See `skillq.transport.base.Browser`. Its channel's end gives back what was not acknowledged."""

    def __init__(
        self, channel: AbstractChannel, wire: FrameWriter, queue: str, translated: Translated
    ) -> None:
        super().__init__(channel, wire)
        self._queue = queue
        self._translated = translated
        self._answer: asyncio.Future[Delivery | None] | None = None

    async def next_message(self) -> Delivery | None:
        with self._translated(self._queue):
            self._answer = asyncio.get_running_loop().create_future()
            self._ask(Basic.Get(queue=self._queue))
            try:
                async with asyncio.timeout(timings.RPC_SECONDS):
                    return await self._answer
            except TimeoutError:
                self.ended = (
                    True  # what comes yet would be taken for the answer to the next question
                )
                raise

    async def remove(self, delivery: Delivery) -> None:
        with self._translated(self._queue):
            _, tag = cast(tuple[object, int], delivery.token)
            self._ask(Basic.Ack(tag))

    def _ask(self, method: Frame) -> None:
        self.check()
        self.send(method)

    def check(self) -> None:
        """Refuse where the channel has ended: to close it would say nothing.

        Raises:
            ChannelInvalidStateError: it has.
        """
        if self.ended:
            raise ChannelInvalidStateError("the channel is closed")

    def handle_method(self, index: bytes, payload: bytes) -> bool:
        if index != _GET_EMPTY:
            return False
        self._answered(None)
        return True

    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        self._answered(read_delivery(method, header, body, self._queue, self)[1])

    def _answered(self, delivery: Delivery | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(delivery)

    def on_closed(self, reason: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(reason)
