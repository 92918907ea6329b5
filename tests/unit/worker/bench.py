"""A worker that has joined, on a wire that fails as a test wants, with attempts that a test ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import JsonValue

from skillq.messages import TaskAssignment, WorkerProfile
from skillq.transport import Transport
from skillq.transport.memory import MemoryTransport
from skillq_worker.execution.executor import CancelJob, Executor, Job, run_in_task
from skillq_worker.worker import Worker
from tests.support.virtual_time import loop_clock
from tests.unit.worker.boss import Boss, until

BRIEF = {"heartbeat": 0.02, "suspect_after": 0.1, "dead_after": 0.4}  # a lease, in seconds


class Bench:
    """An executor whose attempts go on until the test ends them."""

    types = None

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.aborted: list[tuple[str, int]] = []
        self.busy = self.most_busy = 0
        self._ends: dict[tuple[str, int], asyncio.Event] = {}
        self._at_once = False

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(job.assignment), job)

    async def _work(self, task: TaskAssignment) -> JsonValue:
        key = (task.id, task.attempt)
        self.begun.append(key)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            if not self._at_once:
                await self._ends.setdefault(key, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.aborted.append(key)
            raise
        finally:
            self.busy -= 1
        return task.id

    async def end(self, id: str = "a", attempt: int = 1) -> None:
        await until(lambda: (id, attempt) in self._ends)
        self._ends[id, attempt].set()

    def end_all(self) -> None:
        self._at_once = True
        for event in self._ends.values():
            event.set()


@asynccontextmanager
async def working(
    boss: Boss,
    executor: Executor,
    *,
    grace: float = 30.0,
    transport: Transport | None = None,
    profile: WorkerProfile | None = None,
) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """A worker that has joined. Leaves it be told to stop by the test, or stops it."""
    await boss.give_queue()
    async with transport or MemoryTransport(boss.broker) as way:
        one = Worker(way, profile or boss.worker, executor, clock=loop_clock(), grace=grace)
        running = asyncio.create_task(one.run())
        await until(lambda: one.is_ready or running.done())
        try:
            yield one, running
            one.stop(now=True)
            async with asyncio.timeout(10):
                await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
