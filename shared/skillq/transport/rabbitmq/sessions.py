"""A channel that consumes, and one that looks."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from typing import cast

from aiormq.abc import AbstractChannel, DeliveredMessage

from skillq.errors import TransportError
from skillq.transport.base import Delivery
from skillq.transport.consuming import Session
from skillq.transport.frames import UNREADABLE_HEADER
from skillq.transport.rabbitmq.errors import translated
from skillq.transport.rabbitmq.link import RPC_SECONDS, Link, close_channel


class _Channel:
    """A consuming channel that takes what its broker no longer wants to hear for said."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel

    async def ack(self, tag: int, *, multiple: bool) -> None:
        with suppress(TransportError), translated("acknowledge"):
            async with asyncio.timeout(RPC_SECONDS):
                await self._channel.basic_ack(tag, multiple=multiple, wait=False)

    async def nack(self, tag: int, *, requeue: bool) -> None:
        with suppress(TransportError), translated("reject"):
            async with asyncio.timeout(RPC_SECONDS):
                await self._channel.basic_nack(tag, requeue=requeue, wait=False)

    async def close(self) -> None:
        await close_channel(self._channel)


# Finds or makes the queue to consume, on the channel that will consume it, and names it.
Find = Callable[[AbstractChannel], Awaitable[str]]


async def begin_session(
    link: Link, find: Find, prefetch: int, exclusive: bool, priority: int
) -> Session:
    channel = await link.channel()
    try:
        session = Session(_Channel(channel))
        channel.closing.add_done_callback(lambda _: session.end())
        channel.on_consumer_cancel_callbacks.add(lambda _: session.end())
        await channel.basic_qos(prefetch_count=prefetch, timeout=RPC_SECONDS)
        queue = await find(channel)

        async def take(message: DeliveredMessage) -> None:
            if (tag := message.delivery_tag) is not None and not session.over.is_set():
                session.take(tag, _delivery(message, queue, (session, tag)))

        await channel.basic_consume(
            queue,
            take,
            exclusive=exclusive,
            arguments={"x-priority": priority} if priority else None,
            timeout=RPC_SECONDS,
        )
    except BaseException:
        await close_channel(channel)
        raise
    return session


def _delivery(message: DeliveredMessage, queue: str, token: object) -> Delivery:
    properties = message.header.properties
    headers = properties.headers or {}
    return Delivery(
        body=message.body,
        type=properties.message_type or "",
        queue=queue,
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        redelivered=bool(message.redelivered),
        headers=headers,
        message_id=properties.message_id or "",
        app_id=properties.app_id or "",
        token=token,
        unreadable=str(headers.pop(UNREADABLE_HEADER, "")),
    )


Translated = Callable[[str], AbstractContextManager[None]]


class ChannelBrowser:
    """See `skillq.transport.base.Browser`. Its channel's end gives back what was not acknowledged."""

    def __init__(self, channel: AbstractChannel, queue: str, translated: Translated) -> None:
        self._channel = channel
        self._queue = queue
        self._translated = translated

    async def next(self) -> Delivery | None:
        with self._translated(self._queue):
            message = await self._channel.basic_get(self._queue, timeout=RPC_SECONDS)
        if (tag := message.delivery_tag) is None:
            return None
        return _delivery(message, self._queue, tag)

    async def remove(self, delivery: Delivery) -> None:
        with self._translated(self._queue):
            async with asyncio.timeout(RPC_SECONDS):
                await self._channel.basic_ack(cast(int, delivery.token))
