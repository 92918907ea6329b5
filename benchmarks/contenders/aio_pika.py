"""Request and reply with aio-pika alone: no tasks, no retries, no types."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from benchmarks.contenders.setting import DURABLE, PATIENCE, REPLIES, URL

TASKS = "bench.tasks"
PREFETCH = 100
_MODE = aio_pika.DeliveryMode.PERSISTENT if DURABLE else aio_pika.DeliveryMode.NOT_PERSISTENT


@asynccontextmanager
async def open_channel() -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect_robust(URL)
    async with connection:
        channel = await connection.channel(publisher_confirms=DURABLE)
        await channel.set_qos(PREFETCH)
        yield channel


async def work() -> None:
    async with open_channel() as channel:
        queue = await channel.declare_queue(TASKS, durable=DURABLE)

        async def noop(message: AbstractIncomingMessage) -> None:
            reply = aio_pika.Message(
                b"ok", correlation_id=message.correlation_id, delivery_mode=_MODE
            )
            await channel.default_exchange.publish(reply, message.reply_to or "")
            if DURABLE:
                await message.ack()

        await queue.consume(noop, no_ack=not DURABLE)
        await asyncio.Future()


class Client:
    def __init__(self, channel: AbstractChannel, queue: str) -> None:
        self._channel = channel
        self._queue = queue
        self._pending: dict[str, asyncio.Future[bytes]] = {}

    async def on_reply(self, message: AbstractIncomingMessage) -> None:
        if DURABLE:
            await message.ack()
        self._pending.pop(message.correlation_id or "").set_result(message.body)

    async def many(self, count: int) -> int:
        async with asyncio.timeout(PATIENCE):
            bodies = await asyncio.gather(*(self.call() for _ in range(count)))
        return bodies.count(b"ok")

    async def one(self) -> None:
        await self.call()

    async def call(self) -> bytes:
        id = uuid4().hex
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[id] = reply
        message = aio_pika.Message(b"go", correlation_id=id, reply_to=REPLIES, delivery_mode=_MODE)
        await self._channel.default_exchange.publish(message, self._queue)
        return await reply


@asynccontextmanager
async def connect() -> AsyncIterator[Client]:
    async with open_channel() as channel:
        client = Client(channel, TASKS)
        await channel.declare_queue(TASKS, durable=DURABLE)
        replies = await channel.declare_queue(REPLIES, durable=DURABLE)
        await replies.consume(client.on_reply, no_ack=not DURABLE)
        yield client


if __name__ == "__main__":
    asyncio.run(work())
