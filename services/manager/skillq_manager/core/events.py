"""Events: the input of the core.

Some wire messages are events, too. The other events, and the data that the store gives the core,
are defined here. `LiveTask`, `StoredTask` and `StoredStatus` are three views of a stored task:
before its end, for a retry, and for a look-up.
"""

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
    """The status of a task in the store, and the fingerprint of the definition of the task."""

    status: TaskStatus
    fingerprint: int


class LiveTask(Protocol):
    """A task in the store that has not ended: restored at a start, or read from the backlog."""

    @property
    def run(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def like(self) -> Task: ...  # the definition, without a valid id and without texts
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
    """A client submits tasks. `known` has the stored tasks among them and their dependencies."""

    submission: Submission
    known: Mapping[TaskKey, StoredStatus]
    run_title: str | None  # the title of the stored run; None: the run is new


class SubmissionInvalid(NamedTuple):
    """A submission that is refused for a reason found before the core was asked."""

    submission: Submission
    reason: str


class AssignmentReturned(NamedTuple):
    """The broker returned assignments, because the queue of the worker does not exist."""

    worker: str
    incarnation: str
    attempts: tuple[AttemptRef, ...]


class AssignmentUndeliverable(NamedTuple):
    """An assignment that cannot be sent to any worker, because it is too large."""

    attempt: AttemptRef
    reason: str


class CancelRequested(NamedTuple):
    """An operator cancels tasks of a run: those with these ids, or all (None).

    `backlog` has the rows of the tasks among them that only the store keeps.
    """

    request: str  # the id that `AnswerRequest` repeats
    run: str
    ids: tuple[str, ...] | None
    reason: str
    backlog: tuple[LiveTask, ...] = ()


class StoredTask(NamedTuple):
    """A task as the store has it, for an operator who wants a retry."""

    key: TaskKey
    seq: int
    task: Task
    fingerprint: int
    status: TaskStatus
    attempt: int


class RetryRequested(NamedTuple):
    """An operator wants a retry of ended tasks; `known` has the dependencies of these tasks."""

    request: str
    tasks: tuple[StoredTask, ...]
    known: Mapping[TaskKey, StoredStatus]


class BacklogPage(NamedTuple):
    """The answer to a `RefillRequest`, handled before any other event.

    `more`: the store has further tasks with this need.
    """

    need: Need
    rows: Sequence[LiveTask]
    more: bool


class BacklogSummary(NamedTuple):
    """The ready tasks that the store keeps and a starting manager does not load."""

    needs: Collection[Need]  # the needs that have a backlog
    ready: Mapping[
        str, int
    ]  # by run, how many tasks are ready in all: in memory and in the backlog


class HeartbeatsLost(NamedTuple):
    """No heartbeat can reach the manager: the broker is away, or blocks publishers."""


class HeartbeatsRecovered(NamedTuple):
    """Heartbeats can reach the manager again."""


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
