"""A real manager on the memory broker, with workers that do as a test tells them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic import SecretStr

from skillq import topology
from skillq.clock import steady_clock
from skillq.messages import (
    Connect,
    Message,
    Outcome,
    Progress,
    ProgressItem,
    TaskResult,
    TaskResults,
    WorkerProfile,
    slug,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.core.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.memory import MemoryStore
from skillq_manager.web.app import create_app

TASKS = [
    {"id": 1, "difficulty": 2, "description": "Simple calculation"},
    {"id": 2, "difficulty": 5, "type": "analysis", "payload": {"rows": [1, 2]}, "priority": 3},
    {"id": 3, "difficulty": 8, "depends_on": [1], "timeout": "30s", "max_attempts": 2},
]


async def _nothing(run: str) -> None: ...


class Desk:
    """A manager, workers that do as they are told, and a client of the API."""

    def __init__(self, broker: MemoryBroker, token: str | None = None) -> None:
        self.store = MemoryStore()
        self._manager_transport = MemoryTransport(broker)
        self._transport = MemoryTransport(broker)
        self.manager = Manager(
            self._manager_transport,
            self.store,
            lambda: State(BestFit(), chance=lambda: 0.5, store=self.store.id),
            clock=steady_clock(),
            on_complete=_nothing,
        )
        self.app = create_app(
            self.manager, self._manager_transport, SecretStr(token) if token else None
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://manager",
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Desk"]:
        async with self._manager_transport, self._transport, self.http:
            running = asyncio.create_task(self.manager.run())
            await self.until(lambda: self.manager.is_leading and self.manager.is_ready)
            yield self
            self.manager.stop()
            await running

    async def until(self, condition: Callable[[], object]) -> None:
        """Let everybody else go on until it is so; the test's time limit ends a vain wait."""
        while not condition():  # noqa: ASYNC110 - conditions are of many kinds
            await asyncio.sleep(0)

    async def say(self, key: str, message: Message) -> None:
        await self._transport.publish(topology.REPORTS, key, Outgoing.of(message))

    async def join(self, title: str, skill: int, **more: Any) -> WorkerProfile:
        who = WorkerProfile(
            name=slug(title), title=title, skill=skill, incarnation=f"{title}-1", **more
        )
        await self._transport.declare(topology.worker_topology(who.name))
        await self.say(f"connect.{who.name}", Connect(worker=who))
        await self.until(lambda: who.name in self.manager.state.fleet.workers)
        return who

    async def begin(self, who: WorkerProfile, id: str, at: float) -> None:
        item = ProgressItem(run="default", id=id, attempt=1, at=at)
        message = Progress(
            worker=who.name, incarnation=who.incarnation, store=self.store.id, items=(item,)
        )
        await self.say(f"progress.{who.name}", message)
        await self.until(lambda: self.row(id).status != "assigned")

    async def end(self, who: WorkerProfile, id: str, outcome: str, **more: Any) -> None:
        result = TaskResult(run="default", id=id, attempt=1, outcome=Outcome(outcome), **more)
        message = TaskResults(
            worker=who.name, incarnation=who.incarnation, store=self.store.id, results=(result,)
        )
        await self.say(f"result.{who.name}", message)
        await self.until(lambda: self.row(id).status.is_terminal)

    def row(self, id: str) -> Any:
        return self.store._tasks["default", id]

    async def submit(self, *tasks: Any, **more: Any) -> httpx.Response:
        return await self.http.post("/api/tasks", json={"tasks": list(tasks), **more})

    async def get(self, path: str, **parameters: Any) -> Any:
        response = await self.http.get(path, params=parameters)
        assert response.status_code == 200, response.text
        return response.json()


def refused(response: httpx.Response, status: int) -> str:
    """The one clear line, and nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (line,) = response.json().values()
    assert list(response.json()) == ["error"]
    assert line
    assert line.isprintable()
    assert "Traceback" not in line
    return str(line)
