"""What the manager tells anyone who listens, and itself."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, JsonValue

from skillq.messages.types import SCHEMA_VERSION, Label, Name, TaskId, TaskStatus, WireModel


class TaskEvent(WireModel):
    id: TaskId
    status: TaskStatus
    attempt: int
    at: float
    worker: str | None = None  # as its user wrote it
    reason: str | None = None
    output: JsonValue = None


class TaskEvents(WireModel):
    type: Literal["task_events"] = "task_events"
    schema_version: Literal[1] = SCHEMA_VERSION
    run: Name
    task_type: Label
    events: tuple[TaskEvent, ...]


class WorkerEventKind(StrEnum):
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    SUSPECT = "suspect"  # its heartbeats are late: no new work
    LOST = "lost"


class WorkerEvent(WireModel):
    type: Literal["worker_event"] = "worker_event"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    title: str
    incarnation: str
    event: WorkerEventKind
    at: float
    reason: str = ""


class RunStatus(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    COMPLETED = "completed"
    UNKNOWN = "unknown"  # only in answer to an inquiry: hand the submission in again


class RunEvent(WireModel):
    """A submission was taken or refused, or all tasks of a run have ended (`counts` by status)."""

    type: Literal["run_event"] = "run_event"
    schema_version: Literal[1] = SCHEMA_VERSION
    run: Name
    title: str
    status: RunStatus
    at: float
    submission_id: str | None = None
    accepted: int = 0
    known: int = 0  # submitted before, the same
    reason: str | None = None
    counts: dict[TaskStatus, int] = Field(default_factory=dict)
    store: str = ""  # that the tasks are in


class StatusReply(WireModel):
    """The answer to an inquiry: how a submission and its run stand; how tasks of it stand, as their last events said.

    Where those do not fit into one message, several answer the same inquiry, and all but the last say `more`.
    """

    type: Literal["standing"] = "standing"
    schema_version: Literal[1] = SCHEMA_VERSION
    submission_id: str
    number: int  # of the inquiry
    status: RunStatus
    store: str
    accepted: int = 0
    known: int = 0
    reason: str | None = None
    counts: dict[TaskStatus, int] = Field(default_factory=dict)
    tasks: tuple[TaskEvent, ...] = ()
    more: bool = False


class Probe(WireModel):
    """The manager's message to itself: proof that its consumers live."""

    type: Literal["probe"] = "probe"
    schema_version: Literal[1] = SCHEMA_VERSION
    store: str = (
        ""  # of the manager that sent it: two with different ones must not serve one broker
    )
