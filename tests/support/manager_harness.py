"""A real manager on a memory broker and a memory store, with workers, clients and the HTTP API."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from copy import copy
from functools import cache, partial
from types import TracebackType
from typing import Any, Self, cast
from uuid import uuid4

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.datastructures import State as AppState

from skillq import topology
from skillq.client import Client, RunResult
from skillq.messages import (
    Connect,
    Lease,
    Message,
    Task,
    TaskEvent,
    WorkerEventKind,
    WorkerProfile,
    slug,
)
from skillq.transport import Delivery, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.core.rules.leases import LeasePolicy
from skillq_manager.core.rules.matching import BestFit, Policy
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.base import TaskFilter
from skillq_manager.store.memory import MemoryStore
from skillq_manager.web.app import create_app
from skillq_manager.web.unreadable import UnreadableMessages
from skillq_worker.execution.executor import Executor
from skillq_worker.execution.simulation import Simulation
from skillq_worker.worker import Worker
from tests.support.fake_worker import FakeWorker
from tests.support.virtual_time import loop_clock
from tests.support.waiting import until_async

FAST_LEASE_POLICY = LeasePolicy(
    resend_after=0.1, sweep_every=0.02, exclude_for=0.15, late_after=0.07, forget_after=5.0
)
FREQUENT_HEARTBEATS = Lease(heartbeat=0.03)
SHORT_LEASE = Lease(heartbeat=0.03, suspect_after=0.15, dead_after=0.3)

TASKS = [
    {"id": 1, "difficulty": 2, "description": "Simple calculation"},
    {"id": 2, "difficulty": 5, "type": "analysis", "payload": {"rows": [1, 2]}, "priority": 3},
    {"id": 3, "difficulty": 8, "depends_on": [1], "timeout": "30s", "max_attempts": 2},
]


class WorkerHarness:
    """A real worker that runs with its own transport."""

    def __init__(self, worker: Worker, transport: MemoryTransport, profile: WorkerProfile) -> None:
        self.profile, self._worker, self._transport = profile, worker, transport
        self.running = asyncio.create_task(worker.run())

    @property
    def is_ready(self) -> bool:
        return self._worker.is_ready

    def stop(self) -> None:
        self._worker.stop()

    async def die(self) -> None:
        """Close the connection and end the worker without any message, as a crash does."""
        await self._transport.__aexit__(None, None, None)
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class ManagerHarness:
    """A manager that runs between enter and exit, with real clients, and real or fake workers.

    `manager_transport` belongs to the manager, `transport` to the test. `unreadable` has the messages
    that the manager or a worker has dead-lettered.
    """

    _consumes_dead_letters = True

    def __init__(
        self,
        *,
        broker: MemoryBroker | None = None,
        policy: Policy | None = None,
        expected_workers: int = 0,
        stop_when_done: bool = False,
        leases: LeasePolicy | None = None,
        lease: Lease = FREQUENT_HEARTBEATS,
        manager_transport: MemoryTransport | None = None,
        store: MemoryStore | None = None,
        backlog_keep: int = 0,
        leading: bool = True,
    ) -> None:
        self.broker = broker or MemoryBroker()
        self.store = store or MemoryStore()
        self._lease = lease
        self._leading = leading
        self.completed_runs: list[str] = []
        self.unreadable: list[Delivery] = []
        self.events: list[TaskEvent] = []
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self.manager_transport = manager_transport or MemoryTransport(self.broker, app_id="manager")
        self.transport = MemoryTransport(self.broker, app_id="test")
        self.manager = Manager(
            self.manager_transport,
            self.store,
            lambda: State(
                policy or BestFit(),
                chance=lambda: 0.0,
                expected_workers=expected_workers,
                leases=leases,
                store=self.store.id,
                backlog_keep=backlog_keep,
            ),
            clock=loop_clock(),
            stop_when_done=stop_when_done,
            on_complete=self.on_complete,
        )

    async def on_complete(self, run: str) -> None:
        self.completed_runs.append(run)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.manager_transport)
        await self._stack.enter_async_context(self.transport)
        self.running = asyncio.create_task(self.manager.run())
        await until_async(
            lambda: self._has_started or self.running.done(), "the manager should be ready or end"
        )
        if self._consumes_dead_letters:
            self._tasks.append(asyncio.create_task(self._receive_unreadable()))
        return self

    @property
    def _has_started(self) -> bool:
        return self.manager.is_ready and self.manager.is_leading is self._leading

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.manager.stop()
        await asyncio.gather(self.running, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _receive_unreadable(self) -> None:
        consumer = await self.transport.consume(topology.DEAD_LETTERS, prefetch=100)
        while True:
            deliveries = await consumer.batch()
            self.unreadable += deliveries
            await consumer.ack(deliveries)

    # --- workers

    async def connect_worker(
        self, title: str, skill: int = 5, executor: Executor | None = None, **fields: Any
    ) -> WorkerHarness:
        """Start a real worker; return it when the manager has processed its connect message."""
        transport = MemoryTransport(self.broker, app_id=title)
        await self._stack.enter_async_context(transport)
        profile = self._profile(title, skill, **fields)
        executor = executor or Simulation(profile, 0.0)
        profile = profile.model_copy(update={"types": fields.get("types", executor.types)})
        worker = WorkerHarness(
            Worker(transport, profile, executor, clock=loop_clock(), grace=5), transport, profile
        )
        self._tasks.append(worker.running)
        await until_async(
            lambda: self.worker_entry(profile) is not None and self._has_settled(),
            f"worker {title} should be connected",
        )
        return worker

    async def connect_fake_worker(
        self, title: str, skill: int = 5, *, has_queue: bool = True, **fields: Any
    ) -> FakeWorker:
        """Connect a worker that does nothing by itself; return it when the manager knows it."""
        profile = self._profile(title, skill, **{"incarnation": f"{title}-1"} | fields)
        if has_queue:
            await self.transport.declare(topology.worker_topology(profile.name))
        await self.report(f"connect.{profile.name}", Connect(worker=profile))
        await until_async(
            lambda: (
                self.worker_entry(profile) is not None
                and (not has_queue or self._is_connected(profile))
            ),
            f"worker {title} should be connected",
        )
        return FakeWorker(profile, self.transport, self.store, self._has_settled)

    def _profile(self, title: str, skill: int, **fields: Any) -> WorkerProfile:
        defaults: dict[str, Any] = {"name": slug(title), "title": title, "skill": skill}
        defaults |= {"incarnation": uuid4().hex, "lease": self._lease}
        return WorkerProfile.model_validate(defaults | fields)

    def worker_entry(self, profile: WorkerProfile) -> object:
        """Return the core's entry of this incarnation, or None if it is not connected."""
        return self.manager.state.workers.current_worker(profile.name, profile.incarnation)

    def worker_row(self, name: str) -> Any:
        return self.store._workers[name]

    def _is_connected(self, profile: WorkerProfile) -> bool:
        row = self.store._workers.get(profile.name)
        return row is not None and (row.profile, row.status) == (profile, WorkerEventKind.CONNECTED)

    def _has_settled(self) -> bool:
        """Return whether the manager has processed all reports and sent all that follows."""
        reports = self.broker._queues[topology.MANAGER_REPORTS]
        unprocessed = any(consumer._unacked for consumer in reports.consumers)
        return not unprocessed and not self.manager._outbox._pending

    # --- clients

    async def client(self) -> Client:
        transport = MemoryTransport(self.broker, app_id="client")
        await self._stack.enter_async_context(transport)
        return Client(transport, patience=2.0, clock=loop_clock())

    async def complete(self, *tasks: Task, run: str = "default") -> RunResult:
        client = await self.client()
        async with asyncio.timeout(10):
            return await client.complete(run, tasks, self.events.append)

    # --- single messages

    async def publish(self, exchange: str, key: str, message: Message | bytes) -> None:
        if isinstance(message, bytes):
            outgoing = Outgoing(message, "?")
        else:
            outgoing = Outgoing.from_message(message)
        await self.transport.publish(exchange, key, outgoing)

    async def report(self, key: str, message: Message) -> None:
        await self.publish(topology.REPORTS, key, message)

    async def publish_submission(self, messages: Sequence[Outgoing]) -> None:
        """Publish messages of submissions, past the client."""
        for message in messages:
            await self.transport.publish(topology.SUBMISSIONS, "submit.x", message)

    def submissions_at_broker(self) -> int:
        """Return how many messages of submissions are ready or not acknowledged."""
        queue = self.broker._queues[topology.MANAGER_SUBMISSIONS]
        return len(queue._ready) + sum(len(consumer._unacked) for consumer in queue.consumers)

    # --- the store

    def task_row(self, id: str, run: str = "default") -> Any:
        return self.store._tasks[run, id]

    async def stored_ids(self, run: str = "default") -> list[str]:
        return [row.task.id for row in await self.store.tasks(TaskFilter(run=run))]


def simple_tasks(count: int, **fields: Any) -> Sequence[Task]:
    return [Task.model_validate({"id": n, "difficulty": 1} | fields) for n in range(count)]


class ApiHarness(ManagerHarness):
    """A manager with an HTTP client of its API. Unreadable messages stay in the dead-letter queue."""

    _consumes_dead_letters = False

    def __init__(
        self,
        *,
        broker: MemoryBroker | None = None,
        token: str | None = None,
        store: MemoryStore | None = None,
        backlog_keep: int = 0,
        leading: bool = True,
    ) -> None:
        super().__init__(
            broker=broker, store=store, backlog_keep=backlog_keep, lease=Lease(), leading=leading
        )
        self.app = _app(self.manager, self.manager_transport, SecretStr(token) if token else None)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://localhost",
        )

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.http)
        return await super().__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, trace)
        if error is None:
            self.running.result()

    async def submit(self, *tasks: Any, **fields: Any) -> httpx.Response:
        return await self.http.post("/api/tasks", json={"tasks": list(tasks), **fields})

    async def post(self, path: str, **body: Any) -> Any:
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def get(self, path: str, **parameters: Any) -> Any:
        response = await self.http.get(path, params=parameters)
        assert response.status_code == 200, response.text
        return response.json()

    async def dead_letter_tasks(self, *ids: str) -> None:
        """Restart a worker that holds these tasks until the manager dead-letters them."""
        for start in range(1, 5):
            worker = await self.connect_fake_worker(
                "Victim", 10, incarnation=f"Victim-{start}", slots=len(ids)
            )
            await until_async(
                partial(self._have_attempt, ids, min(start, 3)), "the worker should get the tasks"
            )
            if start == 4:
                await worker.disconnect()
        assert {self.task_row(id).status for id in ids} == {"dead_lettered"}

    def _have_attempt(self, ids: Sequence[str], attempt: int) -> bool:
        return all(self.task_row(id).attempt == attempt for id in ids)

    async def send_unreadable(self, text: str = "?", key: str = "result.x") -> str:
        """Publish an unreadable message; return its message id when it is dead-lettered."""
        earlier = self.manager.counters.unreadable
        message = Outgoing(text.encode(), "note")
        await self.transport.publish(topology.REPORTS, key, message)
        await until_async(
            lambda: self.manager.counters.unreadable > earlier, "the message should be unreadable"
        )
        return message.message_id


def _app(manager: Manager, transport: MemoryTransport, token: SecretStr | None) -> FastAPI:
    """Return the application for this manager.

    All applications share their routes, because making the schemas of the routes takes long.
    """
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
    return create_app(cast(Manager, None), MemoryTransport(MemoryBroker()), None)


def error_line(response: httpx.Response, status: int) -> str:
    """Check that the response has this status and one error of one line; return the line."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (line,) = response.json().values()
    assert list(response.json()) == ["error"]
    assert line
    assert line.isprintable()
    assert "Traceback" not in line
    return str(line)
