"""The port to the store of runs, tasks, attempts and workers.

`Journal` has the operations that the manager's loop needs, `Views` the queries of the API and the summary,
`LeaderLease` the lease of the leader. Times are seconds since 1970 (UTC). One contract suite tests all
implementations: `tests/contract/test_store.py`.
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

BACKLOG_PAGE = 10_000  # tasks of the backlog that are cancelled together


class Body(NamedTuple):
    """The parts of a task that an assignment needs and the manager does not keep in memory."""

    like: Task  # do not use its id, description and payload: they may be of another task
    description: str
    payload: dict[str, JsonValue]
    dependencies: dict[str, JsonValue]  # the outputs of the dependencies, by task id

    @classmethod
    def from_task(cls, task: Task, dependencies: dict[str, JsonValue]) -> Self:
        """Make the body of a task, with the outputs of its dependencies."""
        return cls(task, task.description, task.payload, dependencies)


@dataclass(slots=True)
class AttemptRow:
    """One attempt at a task, or a stale result."""

    attempt: int
    worker: str  # the title, as the user wrote it
    incarnation: str
    assigned_at: float
    started_at: float | None = None
    finished_at: float | None = None
    outcome: Outcome | None = None  # None until the attempt ends
    error: str | None = None
    counted: bool = True  # False for a stale result

    @classmethod
    def from_stale_result(cls, command: RecordStaleResult) -> Self:
        """Make the row of a stale result."""
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
    """A task with its status and its last attempt."""

    run: str
    seq: int  # number in the order of submission
    task: Task
    fingerprint: int
    status: TaskStatus
    submitted_at: float
    reason: str | None = None
    worker: str | None = None  # of the last attempt: the title, as the user wrote it
    attempt: int = 0
    started_at: float | None = None  # of the last attempt
    finished_at: float | None = None  # of the task
    output: JsonValue = None
    error: str | None = None
    # Only `Views.task` fills this list: attempts by number, then stale results in order of arrival.
    attempts: list[AttemptRow] = field(default_factory=list)


@dataclass(slots=True)
class RunRow:
    """A run, with the number of its tasks per status."""

    run: str
    title: str
    submitted_at: float
    finished_at: float | None = None  # None while a task of the run has not ended
    counts: dict[TaskStatus, int] = field(default_factory=dict)  # without statuses of no task

    @property
    def total(self) -> int:
        """Return the number of tasks."""
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        """Return the number of tasks with a terminal status."""
        return sum(n for status, n in self.counts.items() if status.is_terminal)


@dataclass(slots=True)
class WorkerRow:
    """A worker, with its last event and the time since which this event holds."""

    profile: WorkerProfile
    status: WorkerEventKind
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """A query of tasks: each field that is not None must match.

    The result has the first `limit` tasks whose `seq` is greater than `cursor`.
    """

    run: str | None = None
    status: TaskStatus | None = None
    type: str | None = None
    worker: str | None = None
    limit: int = 100
    cursor: int = 0
    ids: tuple[str, ...] | None = None  # only a few: they go into one statement


@dataclass(slots=True)
class LiveRow:
    """A task that has not ended, with all that a starting manager restores of it."""

    run: str
    id: str
    seq: int
    like: Task  # do not use its id; without description and payload
    fingerprint: int
    status: TaskStatus
    submitted_at: float  # or the time of an operator's retry; the deadline counts from here
    attempt: int
    failures: int
    losses: int
    worker: str | None  # the name on the wire; None if no worker has the task
    incarnation: str | None
    assigned_at: float | None
    retry_at: float | None
    need: Need | None  # None if the need is the one of the definition


class StoreConflict(SkillqError):
    """Raised when a decision contradicts the stored data; nothing was written."""


class StoreFailed(Unreachable):
    """Raised when the database fails after it was opened; the write may have happened or not."""


class LeadershipLost(SkillqError):
    """Raised when this manager does not lead, or no longer leads; nothing was written."""


_NO_PAYLOAD: dict[str, Any] = {"payload": {}}
_NO_TEXTS: dict[str, Any] = {"payload": {}, "description": ""}


def without_payload(task: Task) -> Task:
    """Return the task with an empty payload."""
    return task.model_copy(update=_NO_PAYLOAD) if task.payload else task


def without_texts(task: Task) -> Task:
    """Return the task with an empty payload and an empty description."""
    return task.model_copy(update=_NO_TEXTS) if task.payload or task.description else task


class Journal(Protocol):
    """The operations of the manager's loop: write decisions, read tasks."""

    @property
    def id(self) -> str:
        """Return the id of this store. It never changes: attempts are numbered per store."""
        ...

    async def commit(self, commands: Sequence[Command]) -> None:
        """Write one decision of the core, all or nothing. After the return the write is durable.

        Raises:
            StoreConflict: A task does not meet the precondition of a command (see `preconditions`).
            LeadershipLost: This manager does not lead.
            StoreFailed: The database failed; the write may have happened or not.
        """
        ...

    def load(self, *, include_backlog: bool = True) -> AsyncIterator[list[LiveRow]]:
        """Yield all tasks that have not ended, page by page, in order of submission.

        Without `include_backlog` the tasks in the backlog are left out. Then tasks that were in the backlog
        before a worker got them come last.
        """
        ...

    async def backlog_summary(self) -> BacklogSummary:
        """Return the needs of the tasks in the backlog, and the number of ready tasks per run.

        A task that was moved to the backlog is in the backlog as long as its status is ready.
        """
        ...

    async def backlog_page(self, request: RefillRequest) -> BacklogPage:
        """Return the first tasks of a need's backlog, from a dispatch key on, in order."""
        ...

    async def backlog_tasks(self, run: str, ids: Sequence[str] | None) -> list[LiveRow]:
        """Return tasks of a run that are in the backlog.

        With `ids` the result has all of these tasks, without `ids` the first `BACKLOG_PAGE` of the run.
        """
        ...

    async def last_seq(self) -> int:
        """Return the highest `seq` of a task, or 0 if the store has no task."""
        ...

    async def known_tasks(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, StoredStatus]:
        """Return status and fingerprint of the given tasks; unknown tasks are left out."""
        ...

    async def bodies(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Body]:
        """Return the bodies of the given tasks; unknown tasks are left out."""
        ...


class Views(Protocol):
    """The queries of the API, the status queries and the summary of a run."""

    async def runs(self) -> list[RunRow]:
        """Return all runs, in order of submission."""
        ...

    async def run(self, run: str) -> RunRow | None:
        """Return the run with this name, or None if the store does not have it."""
        ...

    async def tasks(self, task_filter: TaskFilter) -> list[TaskRow]:
        """Return the tasks that match, in order of submission, without payloads and attempts."""
        ...

    async def task(self, key: TaskKey) -> TaskRow | None:
        """Return the task with its payload and all its attempts, or None if it is unknown."""
        ...

    async def workers(self) -> list[WorkerRow]:
        """Return all workers that ever connected, in order of their names."""
        ...


class LeaderLease(Protocol):
    """The lease of the leader. All managers may read; `commit` refuses writes of the others."""

    async def acquire(self) -> bool:
        """Become or stay the leader for the lease time; return False if another leads."""
        ...

    @property
    def epoch(self) -> int:
        """Return the number of this leadership; 0 for a store that only one manager can open."""
        ...

    async def release(self) -> None:
        """End the leadership, so that another manager can lead at once."""
        ...


class Store(Journal, Views, LeaderLease, Protocol):
    """A complete store. It is an async context manager, open between enter and exit."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
