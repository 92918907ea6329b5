"""Commands: the output of the core.

The manager's shell executes commands: it writes rows to the store and sends messages.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from skillq.messages import (
    AttemptRef,
    Outcome,
    Submission,
    Task,
    TaskResult,
    TaskStatus,
    WorkerEventKind,
    WorkerProfile,
)
from skillq_manager.core.model import DispatchKey, Need, TaskKey

# Commands are never changed. They are not frozen, because a frozen dataclass is slow to create, and
# not named tuples, because a field of a named tuple is slow to read: a task has several commands,
# and the store, the outbox, the log and the counters read each of them.


@dataclass(slots=True)
class AnswerSubmission:
    """Answer a submission: accepted as a whole, or refused as a whole for a reason."""

    submission: Submission
    accepted: int
    known: int
    reason: str | None
    at: float


@dataclass(slots=True)
class AnswerRequest:
    """Answer an operator's request to cancel or retry tasks; `refused` has a reason for each."""

    request: str
    done: tuple[TaskKey, ...]
    refused: Mapping[TaskKey, str]


@dataclass(slots=True)
class AddTask:
    """Store a new task."""

    key: TaskKey
    seq: int
    run_title: str
    task: Task
    fingerprint: int
    status: TaskStatus
    at: float
    backlog: Need | None = (
        None  # the backlog that the task goes to at once; None: it stays in memory
    )


@dataclass(slots=True)
class MoveToBacklog:
    """Leave a ready task to the store, because many tasks are before it in its task queue."""

    key: TaskKey
    need: Need
    priority: int


@dataclass(slots=True)
class SetStatus:
    """Change the status of a task that no worker has."""

    key: TaskKey
    task_type: str
    status: TaskStatus
    reason: str | None
    attempt: int
    at: float


@dataclass(slots=True)
class Assign:
    """Give a task to a worker: a new attempt."""

    key: TaskKey
    task_type: str
    attempt: int
    worker: WorkerProfile
    at: float


@dataclass(slots=True)
class Resend:
    """Send an assignment again that the worker does not name in its heartbeats."""

    key: TaskKey
    attempt: int
    worker: WorkerProfile


@dataclass(slots=True)
class StartAttempt:
    """Record that the worker has started the current attempt."""

    key: TaskKey
    task_type: str
    attempt: int
    worker: WorkerProfile
    at: float


@dataclass(slots=True)
class EndAttempt:
    """Record the end of the current attempt; `status` is the new status of the task."""

    key: TaskKey
    task_type: str
    attempt: int
    worker: WorkerProfile
    outcome: Outcome
    status: TaskStatus
    reason: str | None
    result: TaskResult | None  # None: the worker did not report the end
    retry_at: float | None
    failures: int  # of the task up to now, for the limit `max_attempts`
    losses: int  # of the task up to now, for the limit of lost attempts
    at: float


@dataclass(slots=True)
class SetNeed:
    """Change the need of a task: escalated, relaxed, or with other excluded workers."""

    key: TaskKey
    need: Need
    reason: str
    at: float


@dataclass(slots=True)
class Reopen:
    """Retry an ended task for an operator; its failures and losses count from 0 again."""

    key: TaskKey
    task_type: str
    status: TaskStatus  # ready or blocked
    attempt: int  # the number of the last attempt; the number only grows
    at: float


@dataclass(slots=True)
class RecordStaleResult:
    """Record a result that is not of the current attempt. The task does not change."""

    result: TaskResult
    worker: str
    incarnation: str


@dataclass(slots=True)
class CancelAttempts:
    """Ask a worker to stop attempts that it must not have."""

    worker: WorkerProfile
    store: str  # the id of the store that numbered the attempts
    attempts: tuple[AttemptRef, ...]


@dataclass(slots=True)
class RecallAttempts:
    """Ask a worker to return prefetched attempts, because another worker is idle."""

    worker: WorkerProfile
    store: str
    attempts: tuple[AttemptRef, ...]


@dataclass(slots=True)
class SaveWorker:
    """Store what happened to a worker, and publish it."""

    profile: WorkerProfile
    event: WorkerEventKind
    reason: str
    at: float


@dataclass(slots=True)
class CompleteRun:
    """All tasks of a run have ended.

    `was_complete`: they had ended before this round, and a client submitted them once more.
    """

    run: str
    at: float
    was_complete: bool = False


Command = (
    AnswerSubmission
    | AnswerRequest
    | AddTask
    | MoveToBacklog
    | SetStatus
    | Assign
    | Resend
    | StartAttempt
    | EndAttempt
    | SetNeed
    | Reopen
    | RecordStaleResult
    | CancelAttempts
    | RecallAttempts
    | SaveWorker
    | CompleteRun
)


class RefillRequest(NamedTuple):
    """Ask the store for the first `limit` tasks of a backlog from `start` on.

    Not a command of a decision: `State.refills` has these, and a `BacklogPage` answers each.
    """

    need: Need
    start: DispatchKey
    limit: int


CommandType = TypeVar("CommandType", bound=Command)


class Decisions:
    """The commands of one round, in order: all of them, or those of one type."""

    __slots__ = ("_by_type", "all")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.all = commands
        self._by_type: defaultdict[type, list[Any]] = defaultdict(list)
        for command in commands:
            self._by_type[type(command)].append(command)

    def of_kind(self, command_type: type[CommandType]) -> Sequence[CommandType]:
        """Return the commands of one type."""
        return self._by_type.get(command_type, ())
