"""The port to what lasts: runs, tasks, attempts, workers. One contract suite: `tests/contract/test_store.py`.

`Journal` is what the manager's loop needs, `Views` what people ask. Times are seconds since the epoch (UTC).
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from pydantic import JsonValue

from skillq.errors import SkillqError, Unreachable
from skillq.messages import Outcome, Task, TaskStatus, WorkerEventKind, WorkerProfile
from skillq_manager.core.commands import Command, RecordStaleResult, RefillRequest
from skillq_manager.core.events import BacklogPage, BacklogSummary, StoredStatus
from skillq_manager.core.model import Need, TaskKey

BACKLOG_PAGE = 10_000  # tasks that are called off at a time


class Body(NamedTuple):
    """What a worker needs of a task beside the decision."""

    like: Task  # but for its id and its texts, which are not to be used
    description: str
    payload: dict[str, JsonValue]
    dependencies: dict[str, JsonValue]  # their outputs, by id

    @classmethod
    def from_task(cls, task: Task, dependencies: dict[str, JsonValue]) -> Self:
        return cls(task, task.description, task.payload, dependencies)


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

    @classmethod
    def of_stale(cls, command: RecordStaleResult) -> Self:
        result = command.result
        return cls(
            result.attempt,
            command.worker,
            command.incarnation,
            assigned_at=result.started_at or 0.0,
            started_at=result.started_at,
            finished_at=result.finished_at,
            outcome=result.outcome,
            error=result.error,
            counted=False,
        )


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
    started_at: float | None = None  # of the last attempt
    finished_at: float | None = None  # of the task
    output: JsonValue = None
    error: str | None = None
    # By number, what counted first, then stale reports as they came; on the task's own page only.
    attempts: list[AttemptRow] = field(default_factory=list)


@dataclass(slots=True)
class RunRow:
    run: str
    title: str
    submitted_at: float
    finished_at: float | None = None  # None while a task of it has not ended
    counts: dict[TaskStatus, int] = field(default_factory=dict)  # of statuses that it has

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
    ids: tuple[str, ...] | None = None  # a few


@dataclass(slots=True)
class LiveRow:
    """A task that has not ended, as a manager that starts needs it."""

    run: str
    id: str
    seq: int
    like: Task  # but for its id; without texts
    fingerprint: int
    status: TaskStatus
    submitted_at: float  # or sent again: deadlines count from here
    attempt: int
    failures: int
    losses: int
    worker: str | None  # the name on the wire of the one that has it; None where none has
    incarnation: str | None
    assigned_at: float | None
    retry_at: float | None
    need: Need | None  # where it is not what the definition says


class StoreConflict(SkillqError):
    """Raised when what was decided does not fit what is stored; nothing was written."""


class StoreFailed(Unreachable):
    """Raised when the database fails after it was opened; whether anything was written is not known."""


class LeadershipLost(SkillqError):
    """Raised when this manager does not lead (any more); nothing was written."""


_NO_PAYLOAD: dict[str, Any] = {"payload": {}}
_NO_TEXTS: dict[str, Any] = {"payload": {}, "description": ""}


def without_payload(task: Task) -> Task:
    return task.model_copy(update=_NO_PAYLOAD) if task.payload else task


def without_texts(task: Task) -> Task:
    return task.model_copy(update=_NO_TEXTS) if task.payload or task.description else task


class Journal(Protocol):
    @property
    def id(self) -> str:
        """Names this store for as long as it lasts: attempts are numbered per store."""
        ...

    async def commit(self, commands: Sequence[Command]) -> None:
        """Write what one call of the core decided, all or nothing; when it returns, it lasts as the store does.

        Raises:
            StoreConflict: a task is not where a command takes it from (`fences`): a compare-and-set failed.
            LeadershipLost: this manager does not lead.
            StoreFailed: the database failed; whether it was written is not known.
        """
        ...

    def load(self, *, shelved: bool = True) -> AsyncIterator[list[LiveRow]]:
        """All tasks that have not ended, page by page, in order of submission.

        Without those on a shelf (not `shelved`); what was there before a worker got it comes last then.
        """
        ...

    async def backlog_summary(self) -> BacklogSummary:
        """What `load` leaves out. A task is on a shelf once it was put there, as long as it is ready."""
        ...

    async def backlog_page(self, wanted: RefillRequest) -> BacklogPage:
        """The first tasks of a shelf from a place on, in order of their places."""
        ...

    async def backlog_tasks(self, run: str, ids: Sequence[str] | None) -> list[LiveRow]:
        """Those tasks of a run that are on a shelf: `SHELF_PAGE` at most of all of it, or (`ids`) all of these."""
        ...

    async def last_seq(self) -> int:
        """The highest `seq` given out; 0 where there is none."""
        ...

    async def known_tasks(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, StoredStatus]:
        """Those of these tasks that there are."""
        ...

    async def bodies(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Body]:
        """Those of these tasks that there are."""
        ...


class Views(Protocol):
    async def runs(self) -> list[RunRow]:
        """All runs, in order of submission."""
        ...

    async def run(self, run: str) -> RunRow | None: ...

    async def tasks(self, which: Filter) -> list[TaskRow]:
        """In order of submission, without payloads and attempts."""
        ...

    async def task(self, key: TaskKey) -> TaskRow | None:
        """With its payload and all its attempts."""
        ...

    async def workers(self) -> list[WorkerRow]:
        """All workers ever seen, in order of their names."""
        ...


class LeaderLease(Protocol):
    """Which manager decides; the others may read. What another one took over, `commit` refuses."""

    async def acquire(self) -> bool:
        """Become or stay the leader for the lease's time from now; False while another one leads."""
        ...

    @property
    def epoch(self) -> int:
        """Counts the leaders of this store; 0 where no other manager could lead on it."""
        ...

    async def release(self) -> None:
        """Let another lead at once."""
        ...


class Store(Journal, Views, LeaderLease, Protocol):
    """All of them, in one thing: an async context manager, open between enter and exit."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
