"""Commands: what comes out of the core. The shell carries them out: rows to write, messages to send."""

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

# Nobody changes one. They are not frozen, which would make them slow to make, nor named tuples, of which a field is slow
# to read: there are several for each task, and each is read by the store, the outbox, the log and the tally.


@dataclass(slots=True)
class AnswerSubmission:
    """Tell who submitted: taken, or refused for a reason, as a whole."""

    submission: Submission
    accepted: int
    known: int
    reason: str | None
    at: float


@dataclass(slots=True)
class AnswerRequest:
    """Tell who asked for tasks to be called off or sent again."""

    request: str
    done: tuple[TaskKey, ...]
    refused: Mapping[TaskKey, str]


@dataclass(slots=True)
class AddTask:
    key: TaskKey
    seq: int
    run_title: str
    task: Task
    fingerprint: int
    status: TaskStatus
    at: float
    backlog: Need | None = None  # on which it lies from now on


@dataclass(slots=True)
class MoveToBacklog:
    """A ready task goes to a shelf: there are many before it."""

    key: TaskKey
    need: Need
    priority: int


@dataclass(slots=True)
class SetStatus:
    """A task moves without an attempt: its dependencies are done, or one of them never will be."""

    key: TaskKey
    task_type: str
    status: TaskStatus
    reason: str | None
    attempt: int
    at: float


@dataclass(slots=True)
class Assign:
    key: TaskKey
    task_type: str
    attempt: int
    worker: WorkerProfile
    at: float


@dataclass(slots=True)
class Resend:
    """Send an assignment again that its worker does not know of."""

    key: TaskKey
    attempt: int
    worker: WorkerProfile


@dataclass(slots=True)
class StartAttempt:
    key: TaskKey
    task_type: str
    attempt: int
    worker: WorkerProfile
    at: float


@dataclass(slots=True)
class EndAttempt:
    """The current attempt has ended; `status` is what the task is now."""

    key: TaskKey
    task_type: str
    attempt: int
    worker: WorkerProfile
    outcome: Outcome
    status: TaskStatus
    reason: str | None
    result: TaskResult | None  # None where the worker did not say it
    retry_at: float | None
    failures: int  # the task's, up to now: they count against `max_attempts`
    losses: int  # likewise, against the cap of lost attempts
    at: float


@dataclass(slots=True)
class SetNeed:
    """What a task asks of a worker is no longer what its definition says: escalated, relaxed, a worker excluded."""

    key: TaskKey
    need: Need
    reason: str
    at: float


@dataclass(slots=True)
class Reopen:
    """An operator sends a task again that has ended; its budget of attempts is as new."""

    key: TaskKey
    task_type: str
    status: TaskStatus  # ready or blocked
    attempt: int  # the last number given out; it never goes back
    at: float


@dataclass(slots=True)
class RecordStaleResult:
    """A result that is not of the current attempt: late, foreign, doubled. It changes nothing."""

    result: TaskResult
    worker: str
    incarnation: str


@dataclass(slots=True)
class CancelAttempts:
    """Tell a worker to give up attempts that are not its own any more."""

    worker: WorkerProfile
    store: str  # whose attempts these are
    attempts: tuple[AttemptRef, ...]


@dataclass(slots=True)
class RecallAttempts:
    """Tell a worker to hand attempts back that it has not begun: somebody else is idle."""

    worker: WorkerProfile
    store: str
    attempts: tuple[AttemptRef, ...]


@dataclass(slots=True)
class SaveWorker:
    profile: WorkerProfile
    event: WorkerEventKind
    reason: str
    at: float


@dataclass(slots=True)
class CompleteRun:
    """All tasks of the run have ended; or had ended already, when somebody submitted them once more (`again`)."""

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
    """What the core asks for: the first tasks of a shelf from `start` on, so many."""

    need: Need
    start: DispatchKey
    limit: int


Kind = TypeVar("Kind", bound=Command)


class Decisions:
    """The commands of one turn: `all` in order, and those `of` one kind in theirs."""

    __slots__ = ("_kinds", "all")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.all = commands
        self._kinds: defaultdict[type, list[Any]] = defaultdict(list)
        for command in commands:
            self._kinds[type(command)].append(command)

    def of_kind(self, kind: type[Kind]) -> Sequence[Kind]:
        return self._kinds.get(kind, ())
