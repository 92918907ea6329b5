"""Every message that crosses a process boundary, and the words they share.

One frozen model per message, discriminated by `type`. Services are deployed separately, so a reader
ignores fields it does not know; it refuses a version it does not know (`decode`). Times are seconds
since the epoch (UTC), lengths of time are seconds.
"""

import json
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from skillq.errors import MalformedMessage, UsageError
from skillq.wording import plainly, with_value
from skillq.wording import shorten as shorten  # noqa: PLC0414 - for those who look for it here

SCHEMA_VERSION: Final = 1
MAX_PAYLOAD_BYTES = 256 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_PARTS = 64  # messages that make up one submission: it is decided within a leader's lease
MAX_INQUIRED = 500  # tasks that one inquiry names
MAX_NAME = 63
MAX_ID = 200  # of a submission, an incarnation, a store
MAX_LABELS = 1000  # of one worker: its profile is part of each heartbeat
MAX_SAID = 4000
DEFAULT_RUN = "default"
DEFAULT_TYPE = "task"

MIN_LEVEL, MAX_LEVEL = 1, 10
SPECIALTY_BONUS = 2  # levels, for a worker among whose specialties the type of the task is
RESERVED_NAMES = frozenset({"all"})  # no worker's: the key `stop.all` is everybody's


class TaskStatus(StrEnum):
    """Where a task is. The moves between them are in `skillq_manager.core.lifecycle`."""

    BLOCKED = "blocked"  # waits for tasks it depends on
    READY = "ready"  # waits for a worker
    ASSIGNED = "assigned"  # a worker was told to do it
    RUNNING = "running"  # that worker has begun
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the work said no
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DEAD_LETTERED = "dead_lettered"  # we gave up: attempts lost, undeliverable, poison

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset(
    {
        TaskStatus.SUCCEEDED,
        TaskStatus.FAILED,
        TaskStatus.TIMED_OUT,
        TaskStatus.CANCELLED,
        TaskStatus.DEAD_LETTERED,
    }
)


class Outcome(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"  # the worker has no handler for the type; not counted against the task
    RETURNED = "returned"  # it never began: handed back, or its message came back; not counted
    LOST = "lost"  # its worker went away
    CANCELLED = "cancelled"


class Unroutable(StrEnum):
    """What becomes of a task that no connected worker can do."""

    WAIT = "wait"
    REJECT = "reject"  # give it up
    RELAX = "relax"  # ask for less: first no specialties, then one level less each time
    ESCALATE = "escalate"  # let the most skilled worker try


def slug(written: str) -> str:
    """The name on the wire of what a user wrote: "Junior" → `junior`, "GPU box 1" → `gpu-box-1`.

    Raises:
        ValueError: nothing is left of it, or it is longer than 63 characters.
    """
    name = re.sub(r"[^a-z0-9]+", "-", written.lower()).strip("-")
    if not name:
        raise ValueError(f"{written!r} has no letter a-z or digit to make a name from")
    if len(name) > MAX_NAME:
        raise ValueError(f"{written!r} is longer than {MAX_NAME} characters")
    return name


def _plain(written: object) -> object:
    """Ids and labels may be written as numbers: `id: 1`."""
    if isinstance(written, int) and not isinstance(written, bool):
        return str(written)
    return written


def _sluggable(written: str) -> str:
    slug(written)
    return written


def _a_worker_s(written: str) -> str:
    if slug(written) in RESERVED_NAMES:
        raise ValueError(f"{written!r} is reserved: choose another name")
    return written


def _fits(value: Any) -> Any:
    if (
        value
        and (size := len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()))
        > MAX_PAYLOAD_BYTES
    ):
        raise ValueError(
            f"is {size} bytes; at most {MAX_PAYLOAD_BYTES} are allowed: pass a reference instead"
        )
    return value


def _seconds(written: object) -> object:
    """A length of time: a number of seconds, or a number with a unit, as `30s`, `5m`, `2h`."""
    if isinstance(written, str) and (
        found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", written)
    ):
        return (
            float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2] or "s"]
        )
    return written


def _unique(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


Level = Annotated[int, Field(ge=MIN_LEVEL, le=MAX_LEVEL)]
Title = Annotated[
    str, BeforeValidator(_plain), Field(min_length=1, max_length=120), AfterValidator(_sluggable)
]
WorkerTitle = Annotated[Title, AfterValidator(_a_worker_s)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
TaskId = Annotated[
    str, BeforeValidator(_plain), Field(max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:@+-]*$")
]
Label = Annotated[
    str, BeforeValidator(_plain), Field(min_length=1, max_length=63), AfterValidator(_sluggable)
]
# What somebody else says, and we pass on in messages of our own: they must not grow too large by it.
Said = Annotated[str, AfterValidator(lambda text: shorten(text, MAX_SAID))]
Labels = Annotated[tuple[Label, ...], AfterValidator(_unique)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Payload = Annotated[dict[str, JsonValue], AfterValidator(_fits)]
Output = Annotated[JsonValue, AfterValidator(_fits)]


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


# --- tasks -----------------------------------------------------------------------------------


class Task(Wire):
    """One unit of work, as a user describes it."""

    id: TaskId
    difficulty: Level
    description: Annotated[str, Field(max_length=2000)] = ""
    type: Label = DEFAULT_TYPE
    priority: Annotated[int, Field(ge=1, le=100)] = 1
    requires: Labels = ()
    depends_on: Annotated[tuple[TaskId, ...], AfterValidator(_unique)] = ()
    on_failed_dependency: Literal["fail", "run"] = "fail"
    payload: Payload = {}
    timeout: Seconds | None = None  # of one attempt
    deadline: Seconds | None = None  # of the whole task, from its submission on
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 1
    retry_on: Labels = ()  # exceptions, by class name, after which it is tried again; none: any
    no_retry_on: Labels = ()  # exceptions after which it is not
    escalate_by: Annotated[int, Field(ge=0, lt=MAX_LEVEL)] = (
        0  # how much more skill each retry needs
    )
    unroutable: Unroutable = Unroutable.WAIT
    unroutable_after: Seconds = 60.0  # how long nobody may be able to do it before that applies

    def fingerprint(self) -> int:
        """A number of 63 bits that stands for this definition; fields of later releases do not change it."""
        body = self.__pydantic_serializer__.to_json(self, exclude_defaults=True)
        digest = blake2b(body, digest_size=8).digest()
        return int.from_bytes(digest) >> 1


def check_tasks(tasks: Iterable[Task]) -> None:
    """Refuse tasks that can never all be done.

    Raises:
        UsageError: two tasks have one id, or their dependencies go in a circle.
    """
    graph: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        if task.id in graph:
            raise UsageError(f"task {task.id}: two tasks have this id; give each its own")
        graph[task.id] = task.depends_on
    try:
        TopologicalSorter({id: after for id, after in graph.items() if after}).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise UsageError(
            f"task {error.args[1][0]}: depends on itself ({circle}); break the cycle"
        ) from error


class AttemptRef(Wire):
    """One attempt; its number is the fencing token."""

    run: Name
    id: TaskId
    attempt: int


# --- client → manager ------------------------------------------------------------------------


class Submission(Wire):
    """Tasks to be done, accepted or refused as a whole; what is too large for one message comes in parts."""

    type: Literal["submission"] = "submission"
    schema_version: Literal[1] = SCHEMA_VERSION
    submission_id: Annotated[str, Field(max_length=MAX_ID)]  # all its parts have the same
    run: Name
    run_title: Title
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    part: Annotated[int, Field(ge=1)] = 1
    parts: Annotated[int, Field(ge=1, le=MAX_PARTS)] = 1

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.part > self.parts:
            raise ValueError(f"part {self.part} of {self.parts} cannot be")
        try:
            check_tasks(self.tasks)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self


class Inquiry(Wire):
    """A client has heard nothing for a while: what has become of its submission, and of these tasks of it?"""

    type: Literal["inquiry"] = "inquiry"
    schema_version: Literal[1] = SCHEMA_VERSION
    submission_id: Name  # the answer goes to `answer.<submission_id>`
    number: int  # counts the inquiries about this submission
    run: Name
    store: str = ""  # that holds it, as the manager said when it accepted it
    tasks: Annotated[tuple[TaskId, ...], Field(max_length=MAX_INQUIRED)] = ()


# --- worker → manager ------------------------------------------------------------------------


class WorkerProfile(Wire):
    """Who a worker is and what it can do; `types` is None when it takes any type."""

    name: Annotated[Name, AfterValidator(_a_worker_s)]
    title: WorkerTitle
    incarnation: Annotated[str, Field(max_length=MAX_ID)]
    skill: Level
    specialties: Annotated[Labels, Field(max_length=MAX_LABELS)] = ()
    types: Annotated[tuple[Label, ...], Field(max_length=MAX_LABELS)] | None = None
    slots: Annotated[int, Field(ge=1, le=10_000)] = 1
    reserve: Annotated[int, Field(ge=0, le=MAX_LEVEL)] = (
        0  # easier tasks only when they have waited long
    )


class Connect(Wire):
    """A worker is there. `ready` says that it consumes its queue; until then it asks for the queue."""

    type: Literal["connect"] = "connect"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: WorkerProfile
    ready: bool = True


class Disconnect(Wire):
    """A worker leaves and hands back what it did not finish."""

    type: Literal["disconnect"] = "disconnect"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: str
    reason: Said = ""


class Heartbeat(Wire):
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

    def tells_of(self, run: str, id: str) -> bool:
        """Whether this part would name the attempt of that task, if the worker held it."""
        where = place(run, id)
        return where > self.above and (self.upto is None or where <= self.upto)


def place(run: str, id: str) -> str:
    """Where a task stands among others; no name of a run and no id has a slash."""
    return f"{run}/{id}"


class TaskResult(AttemptRef):
    """How one attempt ended."""

    outcome: Outcome
    output: Output = None
    error: Said | None = None
    error_types: tuple[str, ...] = ()  # the exception's class and its bases, by name
    started_at: float | None = None
    finished_at: float | None = None


class TaskResults(Wire):
    type: Literal["result"] = "result"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: str
    store: str = ""  # whose attempts these are: as the assignment said
    results: tuple[TaskResult, ...]


class ProgressItem(AttemptRef):
    """An attempt has begun."""

    at: float


class Progress(Wire):
    type: Literal["progress"] = "progress"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: str
    store: str = ""
    items: tuple[ProgressItem, ...]


# --- manager → worker ------------------------------------------------------------------------


class TaskAssignment(AttemptRef):
    """One attempt to make. `dependencies` holds the outputs of the tasks it depends on, by id."""

    task_type: Label
    description: str = ""
    difficulty: Level
    priority: int = 1
    requires: Labels = ()
    payload: dict[str, JsonValue] = {}
    dependencies: dict[str, JsonValue] = {}
    timeout: float | None = None


class Assignments(Wire):
    type: Literal["assignment"] = "assignment"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: str
    store: str = ""  # numbers attempts; a store that was lost is followed by one of another name
    tasks: tuple[TaskAssignment, ...]


class Cancel(Wire):
    """Give these attempts up; their results will not be counted.

    `waiting_only`: hand back, as returned, those that have not begun; what has begun goes on, and counts.
    """

    type: Literal["cancel"] = "cancel"
    schema_version: Literal[1] = SCHEMA_VERSION
    worker: Name
    incarnation: str
    store: str = ""  # whose attempts these are
    attempts: tuple[AttemptRef, ...]
    reason: str = ""
    waiting_only: bool = False


class Stop(Wire):
    """Leave: after what is running (`drain`), or at once (`now`).

    It waits in the queues of workers that have left already; whoever comes next under that name is not meant.
    """

    type: Literal["stop"] = "stop"
    schema_version: Literal[1] = SCHEMA_VERSION
    incarnations: tuple[str, ...]
    mode: Literal["drain", "now"] = "drain"
    reason: str = ""


# --- manager → anyone ------------------------------------------------------------------------


class TaskEvent(Wire):
    id: TaskId
    status: TaskStatus
    attempt: int
    at: float
    worker: str | None = None  # as its user wrote it
    reason: str | None = None
    output: JsonValue = None


class TaskEvents(Wire):
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


class WorkerEvent(Wire):
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


class RunEvent(Wire):
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
    counts: dict[TaskStatus, int] = {}
    store: str = ""  # that the tasks are in


class Standing(Wire):
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
    counts: dict[TaskStatus, int] = {}
    tasks: tuple[TaskEvent, ...] = ()
    more: bool = False


class Probe(Wire):
    """The manager's message to itself: proof that its consumers live."""

    type: Literal["probe"] = "probe"
    schema_version: Literal[1] = SCHEMA_VERSION
    store: str = (
        ""  # of the manager that sent it: two with different ones must not serve one broker
    )


Message = (
    Submission | Inquiry | Connect | Disconnect | Heartbeat | TaskResults | Progress
    | Assignments | Cancel | Stop | TaskEvents | WorkerEvent | RunEvent | Standing | Probe
)  # fmt: skip
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def encode(message: Message) -> bytes:
    return message.__pydantic_serializer__.to_json(message)


def decode(body: bytes) -> Message:
    """Read a message.

    Raises:
        MalformedMessage: with one line that says what is wrong with the body.
    """
    if len(body) > MAX_MESSAGE_BYTES:
        raise MalformedMessage(
            f"a message of {len(body)} bytes; at most {MAX_MESSAGE_BYTES} are allowed"
        )
    try:
        return _MESSAGE.validate_json(body)
    except ValidationError as error:
        raise MalformedMessage(_complaint(body, error)) from error


def _complaint(body: bytes, error: ValidationError) -> str:
    try:
        version = json.loads(body).get("schema_version", SCHEMA_VERSION)
    except (ValueError, AttributeError, RecursionError):
        return "not a JSON object"
    if version != SCHEMA_VERSION:
        return f"schema_version {version!r} is unknown; this release reads {SCHEMA_VERSION}"
    return explain(error)


def explain(error: ValidationError) -> str:
    """The first complaint of a validation error, in one line: where, what, and the value."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if not where:
        return plainly(first) + more
    link = " " if first["type"] in {"missing", "extra_forbidden"} else ": "
    return f"{where}{link}{with_value(first, first['input'])}{more}"
