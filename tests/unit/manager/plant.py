"""A manager, real workers and clients on one memory broker: all that runs is the code of the services."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from skillq import topology
from skillq.client import Client, RunResult
from skillq.messages import (
    Connect,
    Lease,
    Message,
    Task,
    TaskEvent,
    WorkerProfile,
    slug,
)
from skillq.transport import Delivery, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.core.rules.leases import LeasePolicy
from skillq_manager.core.rules.matching import BestFit, Policy
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.memory import MemoryStore
from skillq_worker.execution.executor import Executor
from skillq_worker.execution.simulation import Simulation
from skillq_worker.worker import Worker
from tests.support.virtual_time import loop_clock
from tests.unit.worker.boss import until

QUICK = LeasePolicy(
    resend_after=0.1, sweep_every=0.02, exclude_for=0.15, late_after=0.07, forget_after=5.0
)
LIVELY = Lease(heartbeat=0.03)
SHORT = Lease(heartbeat=0.03, suspect_after=0.15, dead_after=0.3)


class Hand:
    """One worker of the plant."""

    def __init__(self, worker: Worker, transport: MemoryTransport, profile: WorkerProfile) -> None:
        self.profile, self._worker, self._transport = profile, worker, transport
        self.running = asyncio.create_task(worker.run())

    @property
    def is_ready(self) -> bool:
        return self._worker.is_ready

    def stop(self) -> None:
        self._worker.stop()

    async def die(self) -> None:
        """Fall silent in the middle of whatever it does, and lose the connection."""
        await self._transport.__aexit__(None, None, None)
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class Plant:
    """`manager` runs between enter and exit."""

    def __init__(
        self,
        *,
        broker: MemoryBroker | None = None,
        policy: Policy | None = None,
        expected_workers: int = 0,
        stop_when_done: bool = False,
        leases: LeasePolicy | None = None,
        lease: Lease = LIVELY,
        transport: MemoryTransport | None = None,
        store: MemoryStore | None = None,
        head: int = 0,
    ) -> None:
        self.broker = broker or MemoryBroker()
        self.store = store or MemoryStore()
        self._lease = lease
        self.completed: list[str] = []
        self.dead: list[Delivery] = []
        self.events: list[TaskEvent] = []
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self._way = transport or MemoryTransport(self.broker, app_id="manager")
        self.voice = MemoryTransport(self.broker, app_id="test")
        self.manager = Manager(
            self._way,
            self.store,
            lambda: State(
                policy or BestFit(),
                chance=lambda: 0.0,
                expected_workers=expected_workers,
                leases=leases,
                store=self.store.id,
                backlog_keep=head,
            ),
            clock=loop_clock(),
            stop_when_done=stop_when_done,
            on_complete=self._on_complete,
        )

    async def _on_complete(self, run: str) -> None:
        self.completed.append(run)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._way)
        await self._stack.enter_async_context(self.voice)
        self.running = asyncio.create_task(self.manager.run())
        await until(lambda: self._leads or self.running.done())
        self._tasks.append(asyncio.create_task(self._bury()))
        return self

    @property
    def _leads(self) -> bool:
        return self.manager.is_leading and self.manager.is_ready

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

    async def _bury(self) -> None:
        consumer = await self.voice.consume(topology.DEAD_LETTERS, prefetch=100)
        while True:
            deliveries = await consumer.batch()
            self.dead += deliveries
            await consumer.ack(deliveries)

    # --- workers

    async def hand(
        self, title: str, skill: int = 5, executor: Executor | None = None, **more: Any
    ) -> Hand:
        """A worker, joined, and all that follows from it is done."""
        hand = await self.arriving(title, skill, executor, **more)
        await until(lambda: self.entry(hand.profile) is not None and self._is_done)
        return hand

    async def arriving(
        self, title: str, skill: int = 5, executor: Executor | None = None, **more: Any
    ) -> Hand:
        way = await self._stack.enter_async_context(MemoryTransport(self.broker, app_id=title))
        fields = {"name": slug(title), "title": title, "incarnation": uuid4().hex, "skill": skill}
        fields["lease"] = self._lease
        profile = WorkerProfile.model_validate(fields | more)
        executor = executor or Simulation(profile, 0.0)
        profile = profile.model_copy(update={"types": more.get("types", executor.types)})
        hand = Hand(Worker(way, profile, executor, clock=loop_clock(), grace=5), way, profile)
        self._tasks.append(hand.running)
        return hand

    def entry(self, profile: WorkerProfile) -> object:
        return self.manager.state.workers.current_worker(profile.name, profile.incarnation)

    @property
    def _is_done(self) -> bool:
        """The manager has sent all that followed from what it has heard."""
        reports = self.broker._queues[topology.MANAGER_REPORTS]
        unheard = any(consumer._unacked for consumer in reports.consumers)
        return not unheard and not self.manager._outbox._pending

    # --- clients and strangers

    async def client(self) -> Client:
        way = await self._stack.enter_async_context(MemoryTransport(self.broker, app_id="client"))
        return Client(way, patience=2.0, clock=loop_clock())

    async def complete(self, *tasks: Task, run: str = "default") -> RunResult:
        client = await self.client()
        async with asyncio.timeout(10):
            return await client.complete(run, tasks, self.events.append)

    async def say(self, exchange: str, key: str, message: Message | bytes) -> None:
        out = (
            Outgoing(message, "?") if isinstance(message, bytes) else Outgoing.from_message(message)
        )
        await self.voice.publish(exchange, key, out)

    async def meet(self, title: str, skill: int = 5, **more: Any) -> WorkerProfile:
        """A worker of which the manager has only heard: it has no queue, and never answers."""
        fields = {"name": slug(title), "title": title, "incarnation": uuid4().hex, "skill": skill}
        fields["lease"] = self._lease
        profile = WorkerProfile.model_validate(fields | more)
        await self.say(topology.REPORTS, f"connect.{profile.name}", Connect(worker=profile))
        await until(lambda: self.entry(profile) is not None)
        return profile


def tasks(count: int, **more: Any) -> Sequence[Task]:
    return [Task.model_validate({"id": n, "difficulty": 1} | more) for n in range(count)]
