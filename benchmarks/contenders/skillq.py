"""skillq over RabbitMQ: `skillq manager`, two `skillq worker`, and a client through the SDK."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from benchmarks.contenders.setting import URL
from skillq.client import Client as Sdk
from skillq.messages import Task, TaskStatus
from skillq.transport import Transport
from skillq.transport.rabbitmq import RabbitTransport
from skillq_worker import Handlers

handlers = Handlers()


@handlers.task
async def noop() -> str:
    return "ok"


class Client:
    def __init__(self, transport: Transport) -> None:
        self._sdk = Sdk(transport, name="bench")
        self._runs = count(1)

    async def many(self, number: int) -> int:
        tasks = [Task(id=str(n), type="noop", difficulty=1) for n in range(number)]
        ended = await self._sdk.complete(f"many {next(self._runs)}", tasks)
        return [one.output for one in ended.tasks.values()].count("ok")

    async def one(self) -> None:
        task = Task(id="1", type="noop", difficulty=1)
        ended = await self._sdk.complete(f"one {next(self._runs)}", [task])
        if ended.counts != {TaskStatus.SUCCEEDED: 1}:
            raise RuntimeError("a result is wrong")


@asynccontextmanager
async def connect() -> AsyncIterator[Client]:
    async with RabbitTransport(URL, app_id="bench", connection_name="bench") as transport:
        yield Client(transport)
