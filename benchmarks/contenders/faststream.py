"""FastStream over RabbitMQ; replies go to a queue of the client, not through `request`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from faststream import FastStream
from faststream.rabbit import RabbitBroker, RabbitMessage, RabbitQueue, RabbitResponse

from benchmarks.contenders.setting import DURABLE, PATIENCE, REPLIES, URL

TASKS = RabbitQueue("bench.tasks", durable=DURABLE)
broker = RabbitBroker(URL)
app = FastStream(broker)


@broker.subscriber(TASKS)
async def noop(task: str) -> Any:
    return RabbitResponse("ok", persist=True) if DURABLE else "ok"


class Client:
    def __init__(self, broker: RabbitBroker) -> None:
        self._broker = broker
        self._pending: dict[str, asyncio.Future[bytes]] = {}
        self._next = 0

    def on_reply(self, message: RabbitMessage) -> None:
        self._pending.pop(message.correlation_id).set_result(message.body)

    async def many(self, count: int) -> int:
        async with asyncio.timeout(PATIENCE):
            bodies = await asyncio.gather(*(self.call() for _ in range(count)))
        return bodies.count(b"ok")

    async def one(self) -> None:
        await self.call()

    async def call(self) -> bytes:
        self._next += 1
        id = str(self._next)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[id] = reply
        await self._broker.publish(
            "go", TASKS, persist=DURABLE, reply_to=REPLIES, correlation_id=id
        )
        return await reply


@asynccontextmanager
async def connect() -> AsyncIterator[Client]:
    own = RabbitBroker(URL)
    client = Client(own)

    @own.subscriber(RabbitQueue(REPLIES, durable=DURABLE))
    async def on_reply(body: str, message: RabbitMessage) -> None:
        client.on_reply(message)

    async with own:
        await own.start()
        yield client
