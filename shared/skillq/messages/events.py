"""Messages from the manager: events for everybody, replies to clients, its own probes."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, JsonValue

from skillq.messages.types import SCHEMA_VERSION, Label, Name, TaskId, TaskStatus, WireModel


class TaskEvent(WireModel):
    """A task has entered a status."""

    id: TaskId
    status: TaskStatus
    attempt: int
    at: float
    worker: str | None = None  # the title of the worker
    reason: str | None = None
    output: JsonValue = None


class TaskEvents(WireModel):
    """Events of several tasks of one run and one type."""

    type: Literal["task_events"] = "task_events"
    schema_version: Literal[1] = SCHEMA_VERSION
    run: Name
    task_type: Label
    events: tuple[TaskEvent, ...]


class WorkerEventKind(StrEnum):
    """An event in the life of a worker."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    SUSPECT = "suspect"  # its heartbeats are late: it gets no new work
    LOST = "lost"


class WorkerEvent(WireModel):
    """A worker has connected or disconnected, or the manager thinks that it is gone."""

    type: Literal["worker_event"] = "worker_event"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    title: str
    incarnation: str
    event: WorkerEventKind
    at: float
    reason: str = ""


class RunStatus(StrEnum):
    """How a submission, or its run, stands."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    COMPLETED = "completed"
    UNKNOWN = "unknown"  # only in a status reply: the client is to publish the submission again


class RunEvent(WireModel):
    """A submission was accepted or refused, or a run has completed (`counts` by status)."""

    type: Literal["run_event"] = "run_event"
    schema_version: Literal[1] = SCHEMA_VERSION
    run: Name
    title: str
    status: RunStatus
    at: float
    submission_id: str | None = None
    accepted: int = 0
    known: int = 0  # tasks that are stored already, with the same fingerprint
    reason: str | None = None
    counts: dict[TaskStatus, int] = Field(default_factory=dict)
    store: str = ""  # the id of the store that keeps the tasks


class StatusReply(WireModel):
    """The answer to a status query: the status of a submission, and last events of tasks.

    If the tasks do not fit into one message, several messages answer the same query, and all but the last
    have `more` set.
    """

    type: Literal["standing"] = "standing"
    schema_version: Literal[1] = SCHEMA_VERSION
    submission_id: str
    number: int  # of the status query
    status: RunStatus
    store: str
    accepted: int = 0
    known: int = 0
    reason: str | None = None
    counts: dict[TaskStatus, int] = Field(default_factory=dict)
    tasks: tuple[TaskEvent, ...] = ()
    more: bool = False


class Probe(WireModel):
    """A message of the manager to itself: it proves that the manager's queues deliver."""

    type: Literal["probe"] = "probe"
    schema_version: Literal[1] = SCHEMA_VERSION
    # The store of the sender: two managers with different stores must not serve one broker.
    store: str = ""
