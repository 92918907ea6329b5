"""A real manager on the memory broker, with workers that do as a test tells them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from copy import copy
from functools import cache, partial
from typing import Any, cast

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.datastructures import State as AppState

from skillq import topology
from skillq.messages import (
    Connect,
    Disconnect,
    Message,
    Outcome,
    Progress,
    ProgressItem,
    TaskResult,
    TaskResults,
    WorkerEventKind,
    WorkerProfile,
    slug,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.memory import MemoryStore
from skillq_manager.web.app import create_app
from skillq_manager.web.unreadable import UnreadableMessages
from tests.support.virtual_time import loop_clock
from tests.unit.worker.boss import until

TASKS = [
    {"id": 1, "difficulty": 2, "description": "Simple calculation"},
    {"id": 2, "difficulty": 5, "type": "analysis", "payload": {"rows": [1, 2]}, "priority": 3},
    {"id": 3, "difficulty": 8, "depends_on": [1], "timeout": "30s", "max_attempts": 2},
]


async def _nothing(run: str) -> None: ...


def _app(manager: Manager, transport: MemoryTransport, token: SecretStr | None) -> FastAPI:
    """Return the application for this manager. Its routes, whose schemas take long to make, are shared."""
    app = copy(_routes())
    app.state = AppState()
    app.state.manager, app.state.unreadable, app.state.token = (
        manager,
        UnreadableMessages(transport),
        token,
    )
    return app


@cache
def _routes() -> FastAPI:
    nobody = MemoryTransport(MemoryBroker())
    return create_app(cast(Manager, None), nobody, None)


class Desk:
    """A manager, workers that do as they are told, and a client of the API."""

    def __init__(
        self,
        broker: MemoryBroker,
        token: str | None = None,
        store: MemoryStore | None = None,
        head: int = 0,
    ) -> None:
        self.store = store or MemoryStore()
        self._broker = broker
        self._manager_transport = MemoryTransport(broker)
        self._transport = MemoryTransport(broker)
        self.manager = Manager(
            self._manager_transport,
            self.store,
            lambda: State(BestFit(), chance=lambda: 0.0, store=self.store.id, backlog_keep=head),
            clock=loop_clock(),
            on_complete=_nothing,
        )
        self.app = _app(self.manager, self._manager_transport, SecretStr(token) if token else None)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://localhost",
        )

    @asynccontextmanager
    async def open(self, *, leading: bool = True) -> AsyncIterator["Desk"]:
        async with self._manager_transport, self._transport, self.http:
            running = asyncio.create_task(self.manager.run())
            await self.until(lambda: self.manager.is_ready and self.manager.is_leading is leading)
            yield self
            self.manager.stop()
            await running

    async def until(self, condition: Callable[[], object]) -> None:
        """Let everybody else go on until the condition holds."""
        await until(condition)

    async def say(self, key: str, message: Message) -> None:
        await self._transport.publish(topology.REPORTS, key, Outgoing.from_message(message))

    async def join(self, title: str, skill: int, **more: Any) -> WorkerProfile:
        fields = {"name": slug(title), "title": title, "incarnation": f"{title}-1", "skill": skill}
        who = WorkerProfile.model_validate(fields | more)
        await self._transport.declare(topology.worker_topology(who.name))
        await self.say(f"connect.{who.name}", Connect(worker=who))
        await self.until(lambda: self.worker(who.name) == (who, WorkerEventKind.CONNECTED))
        return who

    def worker(self, name: str) -> Any:
        row = self.store._workers.get(name)
        return row and (row.profile, row.status)

    async def give_up(self, *ids: str) -> None:
        """Let a worker be killed by these, again and again, until they are dead-lettered."""
        for start in range(1, 5):
            await self.join("Victim", 10, incarnation=f"Victim-{start}", slots=len(ids))
            await self.until(partial(self._all_at, ids, min(start, 3)))
        gone = Disconnect(worker="victim", incarnation="Victim-4")
        await self.say("disconnect.victim", gone)
        await self.until(lambda: self.worker("victim")[1] is WorkerEventKind.DISCONNECTED)
        assert {self.row(id).status for id in ids} == {"dead_lettered"}

    def _all_at(self, ids: Sequence[str], attempt: int) -> bool:
        return all(self.row(id).attempt == attempt for id in ids)

    async def begin(self, who: WorkerProfile, id: str, at: float) -> None:
        item = ProgressItem(run="default", id=id, attempt=1, at=at)
        message = Progress(
            worker=who.name, incarnation=who.incarnation, store=self.store.id, items=(item,)
        )
        await self.say(f"progress.{who.name}", message)
        await self.until(lambda: self.row(id).status not in {"ready", "assigned"})

    async def end(
        self, who: WorkerProfile, id: str, outcome: str, *, attempt: int = 1, **more: Any
    ) -> None:
        """The attempt ends, the task too or not."""
        await self.until(lambda: self.row(id).attempt == attempt)
        result = TaskResult(run="default", id=id, attempt=attempt, outcome=Outcome(outcome), **more)
        message = TaskResults(
            worker=who.name, incarnation=who.incarnation, store=self.store.id, results=(result,)
        )
        await self.say(f"result.{who.name}", message)
        await self.until(lambda: self.row(id).attempts[attempt - 1].outcome and self._is_done)

    @property
    def _is_done(self) -> bool:
        """All that was reported has been dealt with, to the end."""
        reports = self._broker._queues[topology.MANAGER_REPORTS]
        return not any(consumer._unacked for consumer in reports.consumers)

    def row(self, id: str) -> Any:
        return self.store._tasks["default", id]

    async def submit(self, *tasks: Any, **more: Any) -> httpx.Response:
        return await self.http.post("/api/tasks", json={"tasks": list(tasks), **more})

    async def post(self, path: str, **body: Any) -> Any:
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def stray(self, text: str = "?", key: str = "result.x") -> str:
        """Send what nobody can read; its message id, once it is parked."""
        parked = self.manager.counters.unreadable
        message = Outgoing(text.encode(), "note")
        await self._transport.publish(topology.REPORTS, key, message)
        await self.until(lambda: self.manager.counters.unreadable > parked)
        return message.message_id

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
