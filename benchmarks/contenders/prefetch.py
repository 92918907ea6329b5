"""Sleeping tasks, delivered by the broker to workers with a fixed prefetch.

    python -m benchmarks.contenders.prefetch NAME SLOTS PREFETCH

Durable: confirms, durable queues, acknowledged after the reply is confirmed.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue, AbstractRobustChannel

from benchmarks.contenders.setting import PATIENCE, URL
from benchmarks.holding import Hold

TASKS = "uneven.tasks"
CLIENT_PREFETCH = 1000


@asynccontextmanager
async def _opened(url: str, prefetch: int) -> AsyncIterator[AbstractRobustChannel]:
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch)
        yield channel


async def _declare(channel: AbstractRobustChannel) -> AbstractQueue:
    return await channel.declare_queue(TASKS, durable=True)


def _message(body: object, id: str | None, reply_to: str | None = None) -> aio_pika.Message:
    return aio_pika.Message(
        json.dumps(body).encode(),
        correlation_id=id,
        reply_to=reply_to,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


async def work(name: str, slots: int, prefetch: int) -> None:
    free = asyncio.Semaphore(slots)  # in order of arrival
    async with _opened(URL, prefetch) as channel:

        async def pause(message: AbstractIncomingMessage) -> None:
            received = time.monotonic()
            async with free:
                await asyncio.sleep(json.loads(message.body))
                ended = time.monotonic()
            reply = _message((name, received, ended), message.correlation_id)
            await channel.default_exchange.publish(reply, message.reply_to or "")
            await message.ack()

        await (await _declare(channel)).consume(pause)
        await asyncio.Future()


async def submit(url: str, seconds: Sequence[float]) -> tuple[float, list[Hold]]:
    """Publish the tasks; return the seconds until the last reply, and the workers' holds."""
    holds: dict[str, Hold] = {}
    done = asyncio.Event()

    async def on_reply(message: AbstractIncomingMessage) -> None:
        await message.ack()
        holds[message.correlation_id or ""] = Hold(*json.loads(message.body))
        if len(holds) == len(seconds):
            done.set()

    async with _opened(url, CLIENT_PREFETCH) as channel, asyncio.timeout(PATIENCE):
        await _declare(channel)
        replies = await channel.declare_queue(f"uneven.{uuid4().hex}", durable=True)
        await replies.consume(on_reply)
        exchange = channel.default_exchange
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, one in enumerate(seconds):
                message = _message(one, str(number), replies.name)
                group.create_task(_publish(exchange, message))
        await done.wait()
        return time.perf_counter() - start, list(holds.values())


async def _publish(exchange: aio_pika.abc.AbstractExchange, message: aio_pika.Message) -> None:
    await exchange.publish(message, TASKS)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
