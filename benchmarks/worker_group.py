"""Run workers in one process: `python -m benchmarks.worker_group NAME COUNT SLOTS`."""

import asyncio
import sys
from contextlib import AsyncExitStack
from uuid import uuid4

import uvloop

from benchmarks.contenders.setting import URL
from benchmarks.contenders.skillq import handlers
from skillq.messages import WorkerProfile
from skillq.runtime import gc_tuning, logs
from skillq.runtime.clock import steady_clock
from skillq.transport.rabbitmq import RabbitTransport
from skillq_worker.execution.executor import HandlerExecutor
from skillq_worker.worker import Worker


async def serve(group: str, count: int, slots: int) -> None:
    logs.configure("warning", "console")
    gc_tuning.collect_rarely()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        executor = stack.enter_context(HandlerExecutor(handlers))
        for number in range(count):
            name = f"{group}-{number}"
            transport = RabbitTransport(URL, app_id=f"worker {name}", connection_name=name)
            await stack.enter_async_context(transport)
            profile = WorkerProfile(
                name=name,
                title=name,
                incarnation=uuid4().hex,
                skill=5,
                slots=slots,
                types=executor.types,
            )
            worker = Worker(transport, profile, executor, clock=steady_clock(), grace=0.0)
            tasks.create_task(worker.run())


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
