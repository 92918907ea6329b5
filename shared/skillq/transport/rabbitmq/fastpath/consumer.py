"""Channels that receive messages past the driver: a consumer and a browser.

See docs/adr/0018-pass-messages-by-the-driver.md.
"""

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
from skillq.transport.rabbitmq.fastpath.reader import method_index
from skillq.transport.reconnecting import ChannelSession

_GET_EMPTY = method_index(Basic.GetEmpty)


class _ConsumerChannel(FastChannel):
    """A channel that consumes one queue, and adds each delivery to its `ChannelSession`.

    Implements `skillq.transport.reconnecting.Channel`: on an ended channel `ack` and `nack` do nothing.
    """

    def __init__(self, channel: AbstractChannel, writer: FrameWriter) -> None:
        super().__init__(channel, writer)
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


# Returns the name of the queue to consume. The function may declare the queue on the given channel.
QueueFinder = Callable[[AbstractChannel], Awaitable[str]]


async def open_session(
    connection: RabbitConnection,
    find_queue: QueueFinder,
    prefetch: int,
    exclusive: bool,
    priority: int,
) -> ChannelSession:
    """Open a channel and start to consume on it; return the session of the channel.

    `find_queue` names the queue. The broker prefers the consumer with the highest `priority`.
    """
    channel, writer = await connection.channel()
    consumer_channel = _ConsumerChannel(channel, writer)
    try:
        await channel.basic_qos(prefetch_count=prefetch, timeout=timings.RPC_SECONDS)
        consumer_channel.queue = await find_queue(channel)
        await channel.basic_consume(
            consumer_channel.queue,
            _ignore_delivery,
            exclusive=exclusive,
            arguments={"x-priority": priority} if priority else None,
            timeout=timings.RPC_SECONDS,
        )
    except BaseException:
        await consumer_channel.close()
        raise
    return consumer_channel.session


async def _ignore_delivery(_: DeliveredMessage) -> None:
    """Do nothing: the fast path handles all deliveries, and the driver receives none."""


ErrorTranslator = Callable[[str], AbstractContextManager[None]]


class ChannelBrowser(FastChannel):
    """Implements `skillq.transport.base.Browser`.

    When the channel closes, the broker requeues all messages that were not acknowledged.
    """

    def __init__(
        self,
        channel: AbstractChannel,
        writer: FrameWriter,
        queue: str,
        translate_errors: ErrorTranslator,
    ) -> None:
        super().__init__(channel, writer)
        self._queue = queue
        self._translate_errors = translate_errors
        self._reply: asyncio.Future[Delivery | None] | None = None

    async def next_message(self) -> Delivery | None:
        with self._translate_errors(self._queue):
            self._reply = asyncio.get_running_loop().create_future()
            self._send_request(Basic.Get(queue=self._queue))
            try:
                async with asyncio.timeout(timings.RPC_SECONDS):
                    return await self._reply
            except TimeoutError:
                # A late reply would be taken for the reply to the next request.
                self.ended = True
                raise

    async def remove(self, delivery: Delivery) -> None:
        with self._translate_errors(self._queue):
            _, tag = cast(tuple[object, int], delivery.token)
            self._send_request(Basic.Ack(tag))

    def _send_request(self, method: Frame) -> None:
        self.check_open()
        self.send(method)

    def check_open(self) -> None:
        """Check that the channel has not ended: closing an ended channel shows no error.

        Raises:
            ChannelInvalidStateError: The channel has ended.
        """
        if self.ended:
            raise ChannelInvalidStateError("the channel is closed")

    def handle_method(self, index: bytes, payload: bytes) -> bool:
        if index != _GET_EMPTY:
            return False
        self._set_reply(None)
        return True

    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        self._set_reply(read_delivery(method, header, body, self._queue, self)[1])

    def _set_reply(self, delivery: Delivery | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(delivery)

    def on_closed(self, reason: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(reason)
