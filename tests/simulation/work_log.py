"""Execute the tasks of a simulation by scripts, and record every execution."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from pydantic import JsonValue

from skillq.messages import TaskAssignment, WorkerProfile
from skillq_manager.core.model import TaskKey
from skillq_worker.execution.executor import CancelJob, Job
from skillq_worker.execution.failures import TaskFailed

_REPORT_DELAY_SECONDS = 0.02


class Ending(Enum):
    SUCCEEDS = "succeeds"
    FAILS = "fails"  # raises TaskFailed
    RAISES = "raises"  # raises ValueError
    KILLS = "kills"  # kills the process of the worker
    HANGS = "hangs"


@dataclass(frozen=True, slots=True)
class TaskScript:
    """How the first, second, … executions of a task end. The last entry repeats."""

    seconds: float = 0.5
    ends: tuple[Ending, ...] = (Ending.SUCCEEDS,)

    def end(self, number: int) -> Ending:
        return self.ends[min(number, len(self.ends) - 1)]


@dataclass(slots=True)
class Execution:
    key: TaskKey
    attempt: int
    worker: str
    incarnation: str
    began_at: float
    ended_at: float | None = None
    end: Ending | None = None
    output: JsonValue = None


@dataclass(slots=True)
class WorkLog:
    """The log of all executions, outside of the simulated services."""

    scripts: dict[TaskKey, TaskScript] = field(default_factory=lambda: defaultdict(TaskScript))
    executions: list[Execution] = field(default_factory=list)
    start_counts: Counter[TaskKey] = field(default_factory=Counter)

    def begin(
        self, key: TaskKey, attempt: int, profile: WorkerProfile
    ) -> tuple[Execution, TaskScript, Ending]:
        now = asyncio.get_running_loop().time()
        execution = Execution(key, attempt, profile.name, profile.incarnation, now)
        self.executions.append(execution)
        script = self.scripts[key]
        end = script.end(self.start_counts[key])
        self.start_counts[key] += 1
        return execution, script, end


class ScriptedExecutor:
    """Implements `skillq_worker.execution.executor.Executor`; `die` kills the current process."""

    def __init__(
        self,
        works: WorkLog,
        profile: WorkerProfile,
        types: tuple[str, ...] | None,
        die: Callable[[], None],
    ) -> None:
        self._works = works
        self._profile = profile
        self._kill_process = die
        # Executions that have ended and are not reported yet.
        self._unreported: dict[Job, asyncio.Task[JsonValue]] = {}
        self._chance = Random(f"executor {profile.incarnation}")
        self.types = types

    def start(self, job: Job) -> CancelJob:
        execution_task = asyncio.create_task(self._work(job.assignment))
        execution_task.add_done_callback(lambda _: self._on_done(execution_task, job))

        def cancel() -> bool:
            return job not in self._unreported and execution_task.cancel()

        return cancel

    def _on_done(self, execution_task: asyncio.Task[JsonValue], job: Job) -> None:
        """Start the next attempt at once, as users' handlers do, and report the end a little later."""
        if execution_task.cancelled():
            job.on_done(None, asyncio.CancelledError())
            return
        following = job.take_next()
        if following is not None:
            following.on_started(self.start(following))
        self._unreported[job] = execution_task
        asyncio.get_running_loop().call_later(
            _REPORT_DELAY_SECONDS * self._chance.random(), self._report
        )

    def _report(self) -> None:
        while self._unreported:
            job, execution_task = next(iter(self._unreported.items()))
            del self._unreported[job]
            error = execution_task.exception()
            job.on_done(None if error else execution_task.result(), error)

    async def _work(self, task: TaskAssignment) -> JsonValue:
        key = task.run, task.id
        execution, script, end = self._works.begin(key, task.attempt, self._profile)
        await asyncio.sleep(script.seconds)
        if end is Ending.KILLS:
            self._kill_process()
        if end in {Ending.KILLS, Ending.HANGS}:
            await asyncio.Event().wait()
        execution.ended_at = asyncio.get_running_loop().time()
        execution.end = end
        if end is Ending.FAILS:
            raise TaskFailed("the work said no")
        if end is Ending.RAISES:
            raise ValueError("the work raised")
        execution.output = f"{task.id} {task.attempt} {self._profile.incarnation[:8]}"
        return execution.output
