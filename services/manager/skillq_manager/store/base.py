"""The port to what lasts: runs, tasks, attempts, workers. One contract suite: `tests/contract/test_store.py`.

`Journal` is what the manager's loop needs, `Views` what people ask. Times are seconds since the epoch (UTC).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from skillq.messages import Outcome, Task, TaskStatus, WorkerEventKind, WorkerProfile
from skillq_manager.core.commands import Command, Known
from skillq_manager.core.model import TaskKey


class Body(NamedTuple):
    """What a worker needs of a task beside the decision: its definition, and its dependencies' outputs by id."""

    task: Task
    dependencies: dict[str, JsonValue]


@dataclass(slots=True)
class AttemptRow:
    attempt: int
    worker: str  # as its user wrote it
    incarnation: str
    assigned_at: float
    started_at: float | None = None
    finished_at: float | None = None
    outcome: Outcome | None = None  # None while it goes on
    error: str | None = None
    counted: bool = True  # False for a stale report: late, foreign, doubled


@dataclass(slots=True)
class TaskRow:
    run: str
    seq: int  # place in the order of submission
    task: Task
    fingerprint: int
    status: TaskStatus
    submitted_at: float
    reason: str | None = None
    worker: str | None = None  # of the last attempt, as its user wrote it
    attempt: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    output: JsonValue = None
    error: str | None = None
    attempts: list[AttemptRow] = field(default_factory=list)


@dataclass(slots=True)
class RunRow:
    run: str
    title: str
    submitted_at: float
    finished_at: float | None = None  # None while a task of it has not ended
    counts: dict[TaskStatus, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        return sum(n for status, n in self.counts.items() if status.is_terminal)


@dataclass(slots=True)
class WorkerRow:
    profile: WorkerProfile
    status: WorkerEventKind
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class Filter:
    """Tasks that match all that is given, from after `cursor` (a `seq`) on, `limit` at most."""

    run: str | None = None
    status: TaskStatus | None = None
    type: str | None = None
    worker: str | None = None
    limit: int = 100
    cursor: int = 0


class Journal(Protocol):
    @property
    def id(self) -> str:
        """Names this store for as long as it lasts: attempts are numbered per store."""
        ...

    async def commit(self, commands: Sequence[Command]) -> None:
        """Write what was decided, all or nothing; when it returns, it lasts as long as the store does."""
        ...

    async def known(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Known]:
        """Those of these tasks that there are."""
        ...

    async def bodies(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Body]: ...


class Views(Protocol):
    async def runs(self) -> list[RunRow]:
        """All runs, in order of submission."""
        ...

    async def run(self, run: str) -> RunRow | None: ...

    async def tasks(self, which: Filter) -> list[TaskRow]:
        """In order of submission."""
        ...

    async def task(self, key: TaskKey) -> TaskRow | None: ...

    async def workers(self) -> list[WorkerRow]:
        """All workers ever seen, in order of their names."""
        ...


class Store(Journal, Views, Protocol):
    """Both, in one thing."""
