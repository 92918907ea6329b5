"""Run a manager, workers and clients in one process, over any transport and on any store.

The capture uses RabbitMQ. The test uses the memory broker and the store of an earlier release.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from skillq import topology
from skillq.client import Client
from skillq.messages import Connect, Message, TaskStatus, WorkerProfile, slug
from skillq.runtime.clock import Clock, steady_clock
from skillq.transport import Outgoing, Transport
from skillq_manager.core.rules.leases import LeasePolicy
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.rules.retry import RetryPolicy
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.base import Store
from skillq_worker.execution.executor import Executor, HandlerExecutor
from skillq_worker.execution.handlers import Handlers
from skillq_worker.worker import Worker
from tests.support.waiting import until_async

HEAD, CROWD = 2, 4  # so few that a backlog of ten tasks does not fit into the manager's memory
HOUR = 3600.0

_LEASES = LeasePolicy(sweep_every=0.05, reserve_for=0.1, exclude_for=0.1)

OpenTransport = Callable[[str], Transport]


class LocalSystem:
    """A system whose manager runs between enter and exit. Its tasks and workers stay in the store."""

    def __init__(
        self,
        connect: OpenTransport,
        store: Store,
        *,
        clock: Clock | None = None,
        stop_when_done: bool = False,
        head: int = HEAD,
    ) -> None:
        self._connect = connect
        self._clock = clock or steady_clock()
        self.store = store
        self.chance = 0.0  # the jitter of retries: 0 retries at once, 1 in an hour
        self._stack = AsyncExitStack()
        self._running: list[asyncio.Task[None]] = []
        self.transport = connect("system")
        self._own = connect("manager")
        self.manager = Manager(
            self._own,
            store,
            lambda: State(
                BestFit(),
                chance=lambda: self.chance,
                leases=_LEASES,
                retries=RetryPolicy(base=HOUR, cap=HOUR),
                store=store.id,
                backlog_keep=head,
                backlog_from=CROWD,
            ),
            clock=self._clock,
            stop_when_done=stop_when_done,
            on_complete=_ignore,
        )

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._own)
        await self._stack.enter_async_context(self.transport)
        self.manager_task = asyncio.create_task(self.manager.run())
        await until_async(self._serves, "the manager should lead")
        return self

    async def _serves(self) -> bool:
        if self.manager_task.done():
            self.manager_task.result()
        return self.manager.is_leading and self.manager.is_ready

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.manager.stop()
        ended = await asyncio.gather(self.manager_task, return_exceptions=True)
        for worker in self._running:
            worker.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._stack.aclose()
        if error is None and isinstance(ended[0], BaseException):
            raise ended[0]

    # --- workers and clients

    def executor(self, handlers: Handlers) -> Executor:
        """Return an executor of these handlers that is closed at the end of the system."""
        return self._stack.enter_context(HandlerExecutor(handlers))

    async def worker(
        self, title: str, skill: int, make: Callable[[WorkerProfile], Executor], **more: Any
    ) -> Worker:
        """Start a worker; return it when the store has it."""
        transport = await self._stack.enter_async_context(self._connect(f"worker {slug(title)}"))
        worker_profile = profile(title, skill, **more)
        executor = make(worker_profile)
        worker_profile = worker_profile.model_copy(
            update={"types": more.get("types", executor.types)}
        )
        worker = Worker(transport, worker_profile, executor, clock=self._clock, grace=5.0)
        self._running.append(asyncio.create_task(worker.run()))
        await self.wait_for_worker(worker_profile)
        return worker

    async def connect_by_hand(self, title: str, skill: int, **more: Any) -> WorkerProfile:
        """Connect a worker without a process: its queue exists and has no consumer."""
        worker_profile = profile(title, skill, **more)
        await self.transport.declare(topology.worker_topology(worker_profile.name))
        await self.report("connect", worker_profile.name, Connect(worker=worker_profile))
        await self.wait_for_worker(worker_profile)
        return worker_profile

    async def wait_for_worker(self, worker_profile: WorkerProfile) -> None:
        async def is_stored() -> bool:
            rows = await self.store.workers()
            return any(row.profile.incarnation == worker_profile.incarnation for row in rows)

        await until_async(is_stored, f"worker {worker_profile.title} should be known")

    async def report(self, message_kind: str, worker: str, message: Message) -> None:
        await self.publish(topology.REPORTS, f"{message_kind}.{worker}", message)

    async def publish(self, exchange: str, key: str, message: Message | Outgoing) -> None:
        out = message if isinstance(message, Outgoing) else Outgoing.from_message(message)
        await self.transport.publish(exchange, key, out)

    async def client(self) -> Client:
        transport = await self._stack.enter_async_context(self._connect("client"))
        return Client(transport, name="corpus")

    # --- what the store shows

    async def wait_for_status(self, run: str, id: str, status: TaskStatus) -> None:
        async def has_become() -> bool:
            row = await self.store.task((run, id))
            return row is not None and row.status is status

        await until_async(has_become, f"task {id} of {run} should be {status}")

    async def wait_for_run_end(self, run: str) -> None:
        async def has_ended() -> bool:
            row = await self.store.run(run)
            return row is not None and row.finished_at is not None

        await until_async(has_ended, f"run {run} should end")


def profile(title: str, skill: int, **more: Any) -> WorkerProfile:
    fields = {"name": slug(title), "title": title, "incarnation": uuid4().hex, "skill": skill}
    return WorkerProfile.model_validate(fields | more)


async def _ignore(run: str) -> None:
    """Summaries of runs are not part of the corpus."""
