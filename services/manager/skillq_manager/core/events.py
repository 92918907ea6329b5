"""Events: what goes into the core, beside wire messages."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from skillq.messages import (
    AttemptRef,
    Connect,
    Disconnect,
    Heartbeat,
    Progress,
    Submission,
    Task,
    TaskResults,
    TaskStatus,
)
from skillq_manager.core.model import Need, TaskKey


class StoredStatus(NamedTuple):
    """What the store knows of a task; `fingerprint` is of its definition."""

    status: TaskStatus
    fingerprint: int


class LiveTask(Protocol):
    """A task that had not ended when a manager left, as its store hands it to the next."""

    @property
    def run(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def like(self) -> Task: ...  # but for its id and its texts
    @property
    def fingerprint(self) -> int: ...
    @property
    def status(self) -> TaskStatus: ...
    @property
    def submitted_at(self) -> float: ...
    @property
    def attempt(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def losses(self) -> int: ...
    @property
    def worker(self) -> str | None: ...
    @property
    def incarnation(self) -> str | None: ...
    @property
    def assigned_at(self) -> float | None: ...
    @property
    def retry_at(self) -> float | None: ...
    @property
    def need(self) -> Need | None: ...


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
