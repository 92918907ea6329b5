"""Workers and their attempts: worker → manager, and back."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from skillq import timings
from skillq.messages.tasks import AttemptRef
from skillq.messages.types import (
    MAX_ID,
    MAX_LABELS,
    MAX_LEVEL,
    SCHEMA_VERSION,
    Incarnation,
    Label,
    Labels,
    LeaseSeconds,
    Level,
    Name,
    Outcome,
    Output,
    ReasonText,
    StartTime,
    Timestamp,
    WireModel,
    WorkerTitle,
    _check_not_reserved,
)


class Lease(WireModel):
    """How often a worker says that it lives, and how long its silence is trusted. It goes by this, and so does
    the manager, which is told in the worker's profile.
    """

    heartbeat: LeaseSeconds = timings.HEARTBEAT_SECONDS
    suspect_after: LeaseSeconds = timings.SUSPECT_AFTER_SECONDS  # no new work
    dead_after: LeaseSeconds = timings.DEAD_AFTER_SECONDS  # its attempts are lost

    @property
    def fence_after(self) -> float:
        """Without a confirmed heartbeat for so long, the worker itself begins nothing more."""
        return self.suspect_after + (self.dead_after - self.suspect_after) / 3


class WorkerProfile(WireModel):
    """Who a worker is and what it can do; `types` is None when it takes any type."""

    name: Annotated[Name, AfterValidator(_check_not_reserved)]
    title: WorkerTitle
    incarnation: Incarnation
    skill: Level
    specialties: Annotated[Labels, Field(max_length=MAX_LABELS)] = ()
    types: Annotated[tuple[Label, ...], Field(max_length=MAX_LABELS)] | None = None
    slots: Annotated[int, Field(ge=1, le=10_000)] = 1
    reserve: Annotated[int, Field(ge=0, le=MAX_LEVEL)] = (
        0  # easier tasks only when they have waited long
    )
    lease: Lease = Lease()


class Connect(WireModel):
    """A worker is there. `ready` says that it consumes its queue; until then it asks for the queue."""

    type: Literal["connect"] = "connect"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: WorkerProfile
    ready: bool = True


class Disconnect(WireModel):
    """A worker leaves and hands back what it did not finish."""

    type: Literal["disconnect"] = "disconnect"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    reason: ReasonText = ""


class Heartbeat(WireModel):
    """A worker's sign of life: all that a manager which has just started must know of it.

    One that would be too large is cut into parts. Each says all that the worker holds of the attempts whose
    places, as `place` orders them, are above `above` and not above `upto`: none of these is missing by mistake.
    """

    type: Literal["heartbeat"] = "heartbeat"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: WorkerProfile
    store: Annotated[str, Field(max_length=MAX_ID)] = ""  # whose attempts it holds
    holds: tuple[AttemptRef, ...] = ()  # accepted, and its result not yet confirmed
    above: str = ""
    upto: str | None = None
    free_slots: int = 0
    draining: bool = False

    def covers_task(self, run: str, id: str) -> bool:
        """Whether this part would name the attempt of that task, if the worker held it."""
        where = heartbeat_order(run, id)
        return where > self.above and (self.upto is None or where <= self.upto)


def heartbeat_order(run: str, id: str) -> str:
    """Where a task stands among others; no name of a run and no id has a slash."""
    return f"{run}/{id}"


class TaskResult(AttemptRef):
    """How one attempt ended."""

    outcome: Outcome
    output: Output = None
    error: ReasonText | None = None
    error_types: tuple[str, ...] = ()  # the exception's class and its bases, by name
    started_at: Timestamp = None
    finished_at: Timestamp = None


class TaskResults(WireModel):
    type: Literal["result"] = "result"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    store: str = ""  # whose attempts these are: as the assignment said
    results: tuple[TaskResult, ...]


class ProgressItem(AttemptRef):
    """An attempt has begun."""

    at: StartTime


class Progress(WireModel):
    type: Literal["progress"] = "progress"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    store: str = ""
    items: tuple[ProgressItem, ...]


# --- manager → worker


class TaskAssignment(AttemptRef):
    """One attempt to make. `dependencies` holds the outputs of the tasks it depends on, by id."""

    task_type: Label
    description: str = ""
    difficulty: Level
    priority: int = 1
    requires: Labels = ()
    payload: dict[str, JsonValue] = Field(default_factory=dict)
    dependencies: dict[str, JsonValue] = Field(default_factory=dict)
    timeout: float | None = None


class Assignments(WireModel):
    type: Literal["assignment"] = "assignment"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    store: str = ""  # numbers attempts; a store that was lost is followed by one of another name
    tasks: tuple[TaskAssignment, ...]


class Cancel(WireModel):
    """Give these attempts up; their results will not be counted.

    `waiting_only`: hand back, as returned, those that have not begun; what has begun goes on, and counts.
    """

    type: Literal["cancel"] = "cancel"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    store: str = ""  # whose attempts these are
    attempts: tuple[AttemptRef, ...]
    reason: str = ""
    waiting_only: bool = False


class Stop(WireModel):
    """Leave: after what is running (`drain`), or at once (`now`).

    It waits in the queues of workers that have left already; whoever comes next under that name is not meant.
    """

    type: Literal["stop"] = "stop"
    schema_version: Literal[1] = SCHEMA_VERSION
    incarnations: tuple[Incarnation, ...]
    mode: Literal["drain", "now"] = "drain"
    reason: str = ""
