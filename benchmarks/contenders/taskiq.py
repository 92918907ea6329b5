"""Taskiq over RabbitMQ; a result backend sends results to a queue."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq_aio_pika import AioPikaBroker

from benchmarks.contenders.setting import DURABLE, PATIENCE, REPLIES, URL

_MODE = aio_pika.DeliveryMode.PERSISTENT if DURABLE else aio_pika.DeliveryMode.NOT_PERSISTENT


class Replies(AsyncResultBackend[Any]):
    def __init__(self) -> None:
        self._early: dict[str, bytes] = {}
        self._pending: dict[str, asyncio.Future[bytes]] = {}

    async def startup(self) -> None:
        self._connection = await aio_pika.connect_robust(URL)
        self._channel = await self._connection.channel(publisher_confirms=DURABLE)
        self._queue = await self._channel.declare_queue(REPLIES, durable=DURABLE)

    async def shutdown(self) -> None:
        await self._connection.close()

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        body = result.model_dump_json().encode()
        message = aio_pika.Message(body, correlation_id=task_id, delivery_mode=_MODE)
        await self._channel.default_exchange.publish(message, REPLIES)

    async def listen(self) -> None:
        await self._queue.consume(self._on_reply, no_ack=not DURABLE)

    async def _on_reply(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        if DURABLE:
            await message.ack()
        id = message.correlation_id or ""
        if (waiting := self._pending.pop(id, None)) is not None:
            waiting.set_result(message.body)
        else:
            self._early[id] = message.body

    async def is_result_ready(self, task_id: str) -> bool:
        return task_id in self._early

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:
        body = self._early.pop(task_id, None)
        if body is None:
            self._pending[task_id] = asyncio.get_running_loop().create_future()
            body = await asyncio.wait_for(self._pending[task_id], PATIENCE)
        return TaskiqResult[Any].model_validate_json(body)


replies = Replies()
broker = AioPikaBroker(URL).with_result_backend(replies)


@broker.task
async def noop() -> str:
    return "ok"


class Client:
    async def many(self, count: int) -> int:
        sent = await asyncio.gather(*(noop.kiq() for _ in range(count)))
        results = [await task.get_result() for task in sent]
        return [one.return_value for one in results].count("ok")

    async def one(self) -> None:
        task = await noop.kiq()
        await task.get_result()


@asynccontextmanager
async def connect() -> AsyncIterator[Client]:
    await broker.startup()
    await replies.listen()
    try:
        yield Client()
    finally:
        await broker.shutdown()
