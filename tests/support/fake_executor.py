"""An executor for tests of the worker and the manager."""

import asyncio

from pydantic import JsonValue

from skillq.messages import TaskAssignment
from skillq_worker.execution.executor import CancelJob, Job, run_in_task
from tests.support.waiting import until_async


class FakeExecutor:
    """An executor whose attempts succeed at once or, with `hold`, when the test ends them.

    The output of an attempt is the id of its task. `started` and `cancelled` list ids and numbers of attempts.
    """

    types = None

    def __init__(self, *, hold: bool = False) -> None:
        self.started: list[tuple[str, int]] = []
        self.cancelled: list[tuple[str, int]] = []
        self.running = self.most_running = 0
        self._may_end: dict[tuple[str, int], asyncio.Event] = {}
        self._hold = hold

    @property
    def started_ids(self) -> list[str]:
        return [id for id, _ in self.started]

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(job.assignment), job)

    async def _work(self, task: TaskAssignment) -> JsonValue:
        key = (task.id, task.attempt)
        self.started.append(key)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            if self._hold:
                await self._may_end.setdefault(key, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.append(key)
            raise
        finally:
            self.running -= 1
        return task.id

    async def end(self, id: str = "a", attempt: int = 1) -> None:
        """End this attempt as soon as it has started."""
        await until_async(lambda: (id, attempt) in self._may_end, f"{id} should start")
        self._may_end[id, attempt].set()

    def end_all(self) -> None:
        """End all running attempts, and let later attempts succeed at once."""
        self._hold = False
        for may_end in self._may_end.values():
            may_end.set()
