"""Messages about workers and their attempts, between workers and the manager."""

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
    """How often a worker sends heartbeats, and how long it may be silent, in seconds.

    The worker and the manager both use these times: the manager reads them in the worker's profile.
    See docs/adr/0014-let-each-worker-set-its-lease.md.
    """

    heartbeat: LeaseSeconds = timings.HEARTBEAT_SECONDS
    suspect_after: LeaseSeconds = timings.SUSPECT_AFTER_SECONDS  # the worker gets no new work
    dead_after: LeaseSeconds = timings.DEAD_AFTER_SECONDS  # the attempts of the worker are lost

    @property
    def fence_after(self) -> float:
        """Seconds without a confirmed heartbeat after which the worker itself starts no attempt."""
        return self.suspect_after + (self.dead_after - self.suspect_after) / 3


class WorkerProfile(WireModel):
    """The profile of a worker: its name and abilities. `types` is None if it handles any type."""

    name: Annotated[Name, AfterValidator(_check_not_reserved)]
    title: WorkerTitle
    incarnation: Incarnation
    skill: Level
    specialties: Annotated[Labels, Field(max_length=MAX_LABELS)] = ()
    types: Annotated[tuple[Label, ...], Field(max_length=MAX_LABELS)] | None = None
    slots: Annotated[int, Field(ge=1, le=10_000)] = 1
    # Tasks of a lower difficulty go to this worker only when they have waited long.
    reserve: Annotated[int, Field(ge=0, le=MAX_LEVEL)] = 0
    lease: Lease = Lease()


class Connect(WireModel):
    """A worker connects. `ready`: it consumes its queue; if not, it asks for the queue."""

    type: Literal["connect"] = "connect"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: WorkerProfile
    ready: bool = True


class Disconnect(WireModel):
    """A worker leaves and returns the attempts that it did not finish."""

    type: Literal["disconnect"] = "disconnect"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    reason: ReasonText = ""


class Heartbeat(WireModel):
    """The regular message of a worker: all facts that a manager needs that has just started.

    A heartbeat that is too large for one message has several parts. Tasks are ordered by `heartbeat_order`; each
    part names all attempts that the worker holds after `above` and up to `upto`, without a gap.
    """

    type: Literal["heartbeat"] = "heartbeat"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: WorkerProfile
    store: Annotated[str, Field(max_length=MAX_ID)] = ""  # the store that numbers the attempts
    holds: tuple[AttemptRef, ...] = ()  # accepted attempts whose result is not confirmed yet
    above: str = ""
    upto: str | None = None
    free_slots: int = 0
    draining: bool = False

    def covers_task(self, run: str, id: str) -> bool:
        """Return whether this part would name the attempt of a task, if the worker held one."""
        position = heartbeat_order(run, id)
        return position > self.above and (self.upto is None or position <= self.upto)


def heartbeat_order(run: str, id: str) -> str:
    """Return the key that orders tasks in heartbeats. Run names and ids contain no slash."""
    return f"{run}/{id}"


class TaskResult(AttemptRef):
    """How one attempt ended."""

    outcome: Outcome
    output: Output = None
    error: ReasonText | None = None
    error_types: tuple[str, ...] = ()  # the names of the exception's class and of its bases
    started_at: Timestamp = None
    finished_at: Timestamp = None


class TaskResults(WireModel):
    """Results of several attempts of one worker."""

    type: Literal["result"] = "result"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    store: str = ""  # the store that numbers the attempts, as the assignment named it
    results: tuple[TaskResult, ...]


class ProgressItem(AttemptRef):
    """An attempt has started."""

    at: StartTime


class Progress(WireModel):
    """Attempts of one worker that have started."""

    type: Literal["progress"] = "progress"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    store: str = ""
    items: tuple[ProgressItem, ...]


# --- manager → worker


class TaskAssignment(AttemptRef):
    """One attempt that a worker is to run. `dependencies` has their outputs by task id."""

    task_type: Label
    description: str = ""
    difficulty: Level
    priority: int = 1
    requires: Labels = ()
    payload: dict[str, JsonValue] = Field(default_factory=dict)
    dependencies: dict[str, JsonValue] = Field(default_factory=dict)
    timeout: float | None = None


class Assignments(WireModel):
    """Attempts that the manager assigns to one worker."""

    type: Literal["assignment"] = "assignment"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    store: str = ""  # the store that numbers the attempts; a new store has a new id
    tasks: tuple[TaskAssignment, ...]


class Cancel(WireModel):
    """Cancel these attempts; their results will not be counted.

    With `waiting_only`, the worker returns those attempts that have not started; the others run on, and count.
    """

    type: Literal["cancel"] = "cancel"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: Incarnation
    store: str = ""  # the store that numbers the attempts
    attempts: tuple[AttemptRef, ...]
    reason: str = ""
    waiting_only: bool = False


class Stop(WireModel):
    """Stop these workers: after their running attempts (`drain`), or at once (`now`).

    The message may wait in the queue of a worker that has left; the next worker of that name has another
    incarnation and ignores it.
    """

    type: Literal["stop"] = "stop"
    schema_version: Literal[1] = SCHEMA_VERSION
    incarnations: tuple[Incarnation, ...]
    mode: Literal["drain", "now"] = "drain"
    reason: str = ""
