"""An executor and a wire that do as a test of the manager wants."""

import asyncio

from pydantic import JsonValue

from skillq.messages import (
    TaskAssignment,
)
from skillq_worker.execution.executor import CancelJob, Job, run_in_task


class Count:
    """An executor that counts what it does; `held` keeps it from ending."""

    types = None

    def __init__(self, *, held: bool = False) -> None:
        self.begun: list[str] = []
        self._go_on = asyncio.Event()
        if not held:
            self._go_on.set()

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(job.assignment), job)

    async def _work(self, task: TaskAssignment) -> JsonValue:
        self.begun.append(task.id)
        await self._go_on.wait()
        return task.id

    def let_go(self) -> None:
        self._go_on.set()
