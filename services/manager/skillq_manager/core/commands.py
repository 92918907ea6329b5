"""What goes into the core beside wire messages, and what comes out of it.

Events are what happened, commands what the shell has to do: rows to write, messages to send.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from skillq.messages import (
    AttemptRef,
    Connect,
    Disconnect,
    Heartbeat,
    Outcome,
    Progress,
    Submission,
    Task,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerEventKind,
    WorkerProfile,
)
from skillq_manager.core.model import DispatchKey, LiveTask, Need, TaskKey

# --- events ----------------------------------------------------------------------------------


class StoredStatus(NamedTuple):
    """What the store knows of a task; `fingerprint` is of its definition."""

    status: TaskStatus
    fingerprint: int


class SubmissionReceived(NamedTuple):
    """A submission, with what the store knows of the tasks and the run that it names."""

    submission: Submission
    known: Mapping[TaskKey, StoredStatus]
    run_title: str | None  # of the run, where it exists


class SubmissionInvalid(NamedTuple):
    """A submission of which one need not know more to refuse it."""

    submission: Submission
    reason: str


class AssignmentReturned(NamedTuple):
    """Assignments came back from the broker: the worker's queue is not there."""

    worker: str
    incarnation: str
    attempts: tuple[AttemptRef, ...]


class AssignmentUndeliverable(NamedTuple):
    """An assignment that cannot be sent, to anyone, ever."""

    attempt: AttemptRef
    reason: str


class CancelRequested(NamedTuple):
    """Somebody calls tasks off: these, or (None) all of the run; with those of them that are on a shelf."""

    request: str  # names the `Reply`
    run: str
    ids: tuple[str, ...] | None
    reason: str
    backlog: tuple[LiveTask, ...] = ()


class StoredTask(NamedTuple):
    """A task that has ended, as the store has it."""

    key: TaskKey
    seq: int
    task: Task
    fingerprint: int
    status: TaskStatus
    attempt: int


class RetryRequested(NamedTuple):
    """Somebody sends tasks again; `known` are the tasks they depend on."""

    request: str
    tasks: tuple[StoredTask, ...]
    known: Mapping[TaskKey, StoredStatus]


class RefillRequest(NamedTuple):
    """What the core asks for: the first tasks of a shelf from `start` on, so many."""

    need: Need
    start: DispatchKey
    limit: int


class BacklogPage(NamedTuple):
    """The answer, before anything else has happened; `more` may follow."""

    need: Need
    rows: Sequence[LiveTask]
    more: bool


class BacklogSummary(NamedTuple):
    """What a store keeps that a manager that starts has not loaded."""

    needs: Collection[Need]  # those that have a shelf
    ready: Mapping[str, int]  # how many tasks are ready, loaded or not, by run


class HeartbeatsLost(NamedTuple):
    """The manager cannot hear workers, through no fault of theirs: the broker is away, or blocks publishers."""


class HeartbeatsRecovered(NamedTuple):
    """It can hear them again."""


Event = (
    SubmissionReceived
    | SubmissionInvalid
    | CancelRequested
    | RetryRequested
    | BacklogPage
    | HeartbeatsLost
    | HeartbeatsRecovered
    | Connect
    | Disconnect
    | Heartbeat
    | TaskResults
    | Progress
    | AssignmentReturned
    | AssignmentUndeliverable
)

# --- commands --------------------------------------------------------------------------------
#
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
