"""skillq in one process in memory: as `skillq run`, but it keeps running."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

import uvloop

from benchmarks.contenders import SLOTS
from benchmarks.contenders.skillq import Client, handlers
from skillq import topology
from skillq.client import Client as Sdk
from skillq.messages import WorkerProfile
from skillq.runtime import gc_tuning, logs
from skillq.runtime.clock import steady_clock
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.memory import MemoryStore
from skillq_worker.execution.executor import HandlerExecutor
from skillq_worker.worker import Worker

run = uvloop.run  # as `skillq run` does


@asynccontextmanager
async def connect() -> AsyncIterator[Client]:
    logs.configure("warning", "console")  # as `skillq run` does
    gc_tuning.collect_rarely()  # as `skillq run` does
    broker, store, clock = MemoryBroker(), MemoryStore(), steady_clock()

    async def ignore_completion(run: str) -> None: ...

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:

        async def open_transport(app_id: str) -> MemoryTransport:
            return await stack.enter_async_context(MemoryTransport(broker, app_id=app_id))

        def new_state() -> State:
            return State(BestFit(), chance=random.random, store=store.id)

        manager = Manager(
            await open_transport("manager"),
            store,
            new_state,
            clock=clock,
            on_complete=ignore_completion,
        )
        running = [group.create_task(manager.run())]
        executor = stack.enter_context(HandlerExecutor(handlers))
        for name in ("one", "two"):
            transport = await open_transport(name)
            await transport.declare(topology.MANAGER)
            await transport.declare(topology.worker_topology(name))
            profile = WorkerProfile(
                name=name,
                title=name,
                incarnation=uuid4().hex,
                skill=5,
                slots=SLOTS,
                types=executor.types,
            )
            worker = Worker(transport, profile, executor, clock=clock, grace=0.0)
            running.append(group.create_task(worker.run()))
        async with Sdk(await open_transport("client")).open("noop") as run:
            yield Client(run)
        for task in running:
            task.cancel()
