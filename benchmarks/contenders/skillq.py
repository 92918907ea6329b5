"""skillq over RabbitMQ: `skillq manager`, two `skillq worker`, and a client by the SDK."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from benchmarks.contenders.setting import URL
from skillq.client import Client as Sdk
from skillq.client import OpenRun
from skillq.messages import Task
from skillq.transport.rabbitmq import RabbitTransport
from skillq_worker import Handlers

handlers = Handlers()


@handlers.task
async def noop() -> str:
    return "ok"


class Client:
    def __init__(self, run: OpenRun) -> None:
        self._run = run
        self._ids = count(1)

    async def many(self, number: int) -> int:
        outputs = [ended.output async for ended in self._run.map(map(self._task, range(number)))]
        return outputs.count("ok")

    async def one(self) -> None:
        ended = await self._run.result(self._task())
        if ended.output != "ok":
            raise RuntimeError("a result is wrong")

    def _task(self, _: int = 0) -> Task:
        return Task(id=str(next(self._ids)), type="noop", difficulty=1)


@asynccontextmanager
async def connect() -> AsyncIterator[Client]:
    async with (
        RabbitTransport(URL, app_id="bench", connection_name="bench") as transport,
        Sdk(transport).open("noop") as run,
    ):
        yield Client(run)
