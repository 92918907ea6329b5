"""What goes into the core beside wire messages, and what comes out of it.

Events are what happened, commands what the shell has to do: rows to write, messages to send.
"""

from collections.abc import Mapping
from typing import NamedTuple

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
from skillq_manager.core.model import TaskKey

# --- events ----------------------------------------------------------------------------------


class Known(NamedTuple):
    """What the store knows of a task; `fingerprint` is of its definition."""

    status: TaskStatus
    fingerprint: int


class Submitted(NamedTuple):
    """A submission, with what the store knows of the tasks and the run that it names."""

    submission: Submission
    known: Mapping[TaskKey, Known]
    run_title: str | None  # of the run, where it exists


class Returned(NamedTuple):
    """Assignments came back from the broker: the worker's queue is not there."""

    worker: str
    incarnation: str
    attempts: tuple[AttemptRef, ...]


class Undeliverable(NamedTuple):
    """An assignment that cannot be sent, to anyone, ever."""

    attempt: AttemptRef
    reason: str


Event = (
    Submitted | Connect | Disconnect | Heartbeat | TaskResults | Progress | Returned | Undeliverable
)

# --- commands --------------------------------------------------------------------------------


class Answer(NamedTuple):
    """Tell who submitted: taken, or refused for a reason, as a whole."""

    submission: Submission
    accepted: int
    known: int
    reason: str | None
    at: float


class AddTask(NamedTuple):
    key: TaskKey
    seq: int
    run_title: str
    task: Task
    fingerprint: int
    status: TaskStatus
    at: float


class SetStatus(NamedTuple):
    """A task moves without an attempt: its dependencies are done, or one of them never will be."""

    key: TaskKey
    task_type: str
    status: TaskStatus
    reason: str | None
    attempt: int
    at: float


class Assign(NamedTuple):
    key: TaskKey
    task_type: str
    attempt: int
    worker: WorkerProfile
    at: float


class Resend(NamedTuple):
    """Send an assignment again that its worker does not know of."""

    key: TaskKey
    attempt: int
    worker: WorkerProfile


class Start(NamedTuple):
    key: TaskKey
    task_type: str
    attempt: int
    worker: WorkerProfile
    at: float


class EndAttempt(NamedTuple):
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
    at: float


class Stale(NamedTuple):
    """A result that is not of the current attempt: late, foreign, doubled. It changes nothing."""

    result: TaskResult
    worker: str
    incarnation: str


class Abort(NamedTuple):
    """Tell a worker to give up attempts that are not its own any more."""

    worker: WorkerProfile
    store: str  # whose attempts these are
    attempts: tuple[AttemptRef, ...]


class SaveWorker(NamedTuple):
    profile: WorkerProfile
    event: WorkerEventKind
    reason: str
    at: float


class CompleteRun(NamedTuple):
    """All tasks of the run have ended."""

    run: str
    at: float


Command = (
    Answer
    | AddTask
    | SetStatus
    | Assign
    | Resend
    | Start
    | EndAttempt
    | Stale
    | Abort
    | SaveWorker
    | CompleteRun
)
