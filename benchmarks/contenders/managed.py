"""The messages and commits of a skillq task and nothing else, with aio-pika.

One task at a time, this is the cost of a simple way through a manager. For many tasks it is less comparable: it
commits each task alone.
"""

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from benchmarks.contenders import aio_pika as plain
from benchmarks.contenders.setting import REPLIES

SUBMISSIONS, RESULTS = "bench.submissions", "bench.results"
WORKERS = ("one", "two")
QUORUM: dict[str, Any] = {"x-queue-type": "quorum"}

OnMessage = Callable[[AbstractIncomingMessage], Awaitable[object]]


async def consume(channel: AbstractChannel, name: str, on_message: OnMessage) -> None:
    """Consume a queue: a quorum queue of the manager, or a classic queue."""
    arguments = QUORUM if name in {SUBMISSIONS, RESULTS} else None
    queue = await channel.declare_queue(name, durable=True, arguments=arguments)
    await queue.consume(on_message)


async def send(
    channel: AbstractChannel, key: str, cause: AbstractIncomingMessage, body: bytes
) -> None:
    message = aio_pika.Message(
        body, correlation_id=cause.correlation_id, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
    )
    await channel.default_exchange.publish(message, key)
    await cause.ack()


def open_store() -> sqlite3.Connection:
    store = sqlite3.connect(os.environ["SKILLQ_STORE_URL"].removeprefix("sqlite:///"))
    store.execute("PRAGMA journal_mode = WAL")
    store.execute("PRAGMA synchronous = FULL")
    store.execute("CREATE TABLE tasks (id TEXT PRIMARY KEY, worker TEXT, output TEXT)")
    return store


async def manage() -> None:
    store = open_store()
    workers = cycle(WORKERS)
    async with plain.open_channel() as channel:

        async def assign(message: AbstractIncomingMessage) -> None:
            worker = next(workers)
            with store:
                store.execute(
                    "INSERT INTO tasks VALUES (?, ?, NULL)", (message.correlation_id, worker)
                )
            await send(channel, worker, message, message.body)

        async def end(message: AbstractIncomingMessage) -> None:
            with store:
                store.execute(
                    "UPDATE tasks SET output = ? WHERE id = ? AND output IS NULL",
                    (message.body, message.correlation_id),
                )
            await send(channel, REPLIES, message, message.body)

        await consume(channel, SUBMISSIONS, assign)
        await consume(channel, RESULTS, end)
        await asyncio.Future()


async def work(name: str) -> None:
    async with plain.open_channel() as channel:

        async def noop(message: AbstractIncomingMessage) -> None:
            await send(channel, RESULTS, message, b"ok")

        await consume(channel, name, noop)
        await asyncio.Future()


@asynccontextmanager
async def connect() -> AsyncIterator[plain.Client]:
    async with plain.open_channel() as channel:
        client = plain.Client(channel, SUBMISSIONS)
        await channel.declare_queue(SUBMISSIONS, durable=True, arguments=QUORUM)
        await consume(channel, REPLIES, client.on_reply)
        yield client


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]) if sys.argv[1:] else manage())
