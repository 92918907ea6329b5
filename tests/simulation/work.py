"""What the tasks of a simulation do, and a record of all that was done."""

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

_UNHEARD_SECONDS = 0.02


class End(Enum):
    SUCCEEDS = "succeeds"
    FAILS = "fails"  # the work says no
    RAISES = "raises"  # a ValueError
    KILLS = "kills"  # the worker's process
    HANGS = "hangs"


@dataclass(frozen=True, slots=True)
class Script:
    """How the executions of one task go: the first, the second, …; the last one again and again."""

    seconds: float = 0.5
    ends: tuple[End, ...] = (End.SUCCEEDS,)

    def end(self, number: int) -> End:
        return self.ends[min(number, len(self.ends) - 1)]


@dataclass(slots=True)
class Execution:
    key: TaskKey
    attempt: int
    worker: str
    incarnation: str
    began_at: float
    ended_at: float | None = None
    end: End | None = None
    output: JsonValue = None


@dataclass(slots=True)
class Works:
    """The world outside: what the tasks really did."""

    scripts: dict[TaskKey, Script] = field(default_factory=lambda: defaultdict(Script))
    executions: list[Execution] = field(default_factory=list)
    begun: Counter[TaskKey] = field(default_factory=Counter)

    def begin(
        self, key: TaskKey, attempt: int, who: WorkerProfile
    ) -> tuple[Execution, Script, End]:
        now = asyncio.get_running_loop().time()
        execution = Execution(key, attempt, who.name, who.incarnation, now)
        self.executions.append(execution)
        script = self.scripts[key]
        end = script.end(self.begun[key])
        self.begun[key] += 1
        return execution, script, end


class ScriptedExecutor:
    """See `skillq_worker.execution.executor.Executor`. `die` kills the process it runs in."""

    def __init__(
        self,
        works: Works,
        profile: WorkerProfile,
        types: tuple[str, ...] | None,
        die: Callable[[], None],
    ) -> None:
        self._works = works
        self._profile = profile
        self._die = die
        self._unheard: dict[Job, asyncio.Task[JsonValue]] = {}  # that have ended
        self._chance = Random(f"executor {profile.incarnation}")
        self.types = types

    def start(self, job: Job) -> CancelJob:
        doing = asyncio.create_task(self._work(job.assignment))
        doing.add_done_callback(lambda _: self._over(doing, job))

        def cancel() -> bool:
            return job not in self._unheard and doing.cancel()

        return cancel

    def _over(self, doing: asyncio.Task[JsonValue], job: Job) -> None:
        """What has its place begins at once, as with users' handlers; and a little later the worker hears of it."""
        if doing.cancelled():
            job.on_done(None, asyncio.CancelledError())
            return
        following = job.take_next()
        if following is not None:
            following.on_started(self.start(following))
        self._unheard[job] = doing
        asyncio.get_running_loop().call_later(_UNHEARD_SECONDS * self._chance.random(), self._hear)

    def _hear(self) -> None:
        while self._unheard:
            job, doing = next(iter(self._unheard.items()))
            del self._unheard[job]
            error = doing.exception()
            job.on_done(None if error else doing.result(), error)

    async def _work(self, task: TaskAssignment) -> JsonValue:
        key = task.run, task.id
        execution, script, end = self._works.begin(key, task.attempt, self._profile)
        await asyncio.sleep(script.seconds)
        if end is End.KILLS:
            self._die()
        if end in {End.KILLS, End.HANGS}:
            await asyncio.Event().wait()
        execution.ended_at = asyncio.get_running_loop().time()
        execution.end = end
        if end is End.FAILS:
            raise TaskFailed("the work said no")
        if end is End.RAISES:
            raise ValueError("the work raised")
        execution.output = f"{task.id} {task.attempt} {self._profile.incarnation[:8]}"
        return execution.output
