"""The words that messages share: limits, names, lengths of time, how things stand."""

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
)
from pydantic_core import CoreSchema, core_schema, from_json, to_json

from skillq import timings
from skillq.messages.error_text import shorten

SCHEMA_VERSION: Final = 1
MAX_PAYLOAD_BYTES = 256 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024
# Messages that make up one submission, and tasks in each: it is decided within a leader's lease.
MAX_PARTS, MAX_TASKS = 64, 3500
MAX_QUERIED_TASKS = 500  # tasks that one inquiry names
MAX_NAME = 63
_SURELY_FITS = MAX_PAYLOAD_BYTES // 16  # characters; none of them takes more than six bytes
_YEAR_10000 = 253_402_300_800.0
MAX_ID = 200  # of a submission, an incarnation, a store
MAX_LABELS = 1000  # of one worker: its profile is part of each heartbeat
MAX_REASON_TEXT = 4000
DEFAULT_RUN = "default"
DEFAULT_TYPE = "task"

MIN_LEVEL, MAX_LEVEL = 1, 10
SPECIALTY_BONUS = 2  # levels, for a worker among whose specialties the type of the task is
RESERVED_NAMES = frozenset({"all"})  # no worker's: the key `stop.all` is everybody's


class TaskStatus(StrEnum):
    """Where a task is. The moves between them are in `skillq_manager.core.rules.lifecycle`."""

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


# Each as a plain string. `value` is a property in Python, and who writes a string looks twice at one that is not quite one.
STATUS_TEXT: Mapping[TaskStatus | Outcome, str] = {
    word: str(word.value) for words in (TaskStatus, Outcome) for word in words
}


class Unroutable(StrEnum):
    """What becomes of a task that no connected worker can do."""

    WAIT = "wait"
    REJECT = "reject"  # give it up
    RELAX = "relax"  # ask for less: first no specialties, then one level less each time
    ESCALATE = "escalate"  # let the most skilled worker try


@lru_cache(maxsize=4096)  # the same few names again and again
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


def _number_as_text(written: object) -> object:
    if isinstance(written, int) and not isinstance(written, bool):
        return str(written)
    return written


class _NumberAsText:
    """Users may write ids and labels as whole numbers: `id: 1`. In messages they are text."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        text = handler(source)
        # To call Python for each string of a message takes far longer than to check it.
        return core_schema.json_or_python_schema(
            json_schema=text,
            python_schema=core_schema.no_info_before_validator_function(_number_as_text, text),
        )


def _check_no_nul(written: str) -> str:
    """No database of ours keeps the character 0."""
    if "\0" in written:
        raise ValueError("has the character NUL; leave it out")
    return written


def _valid_timestamp(moment: float | None) -> float | None:
    """A broken clock costs a time, and no result: years have four digits."""
    return moment if moment is not None and 0 <= moment < _YEAR_10000 else None


def _check_makes_name(written: str) -> str:
    slug(written)
    return written


@lru_cache(maxsize=4096)  # the same few in every message: so Python is not even called
def _check_label(written: str) -> str:
    return _check_makes_name(_check_no_nul(written))


def _check_not_reserved(written: str) -> str:
    if slug(written) in RESERVED_NAMES:
        raise ValueError(f"{written!r} is reserved: choose another name")
    return written


def _check_payload_size(value: Any) -> Any:
    # What is far from the limit need not be measured exactly, or at all.
    if isinstance(value, str) and len(value) < _SURELY_FITS:
        return value
    if value and len(to_json(value)) > MAX_PAYLOAD_BYTES // 2:
        _check_exact_size(value)
    return value


def _check_exact_size(value: Any) -> None:
    """Written as every release has written it, and as what it will be when it has been sent."""
    arrives = from_json(to_json(value, inf_nan_mode="null"))
    size = len(json.dumps(arrives, separators=(",", ":"), ensure_ascii=False).encode())
    if size > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"is {size} bytes; at most {MAX_PAYLOAD_BYTES} are allowed: pass a reference instead"
        )


def _parse_seconds(written: object) -> object:
    """A length of time: a number of seconds, or a number with a unit, as `30s`, `5m`, `2h`."""
    if isinstance(written, str) and (
        found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", written)
    ):
        return (
            float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2] or "s"]
        )
    return written


def _without_duplicates(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


Level = Annotated[int, Field(ge=MIN_LEVEL, le=MAX_LEVEL)]
Title = Annotated[
    str, Field(min_length=1, max_length=120), _NumberAsText(), AfterValidator(_check_makes_name)
]
WorkerTitle = Annotated[Title, AfterValidator(_check_not_reserved)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
TaskId = Annotated[
    str, Field(max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:@+-]*$"), _NumberAsText()
]
Label = Annotated[
    str,
    Field(min_length=1, max_length=63),
    _NumberAsText(),
    AfterValidator(_check_label),
]
Incarnation = Annotated[str, Field(max_length=MAX_ID), AfterValidator(_check_no_nul)]
AttemptNumber = Annotated[int, Field(ge=0, lt=2**31)]
# Seconds since the epoch (UTC), as somebody else's clock says; None where that cannot be.
Timestamp = Annotated[float | None, AfterValidator(_valid_timestamp)]
# The same where there must be one; 0 where that cannot be.
StartTime = Annotated[float, AfterValidator(lambda moment: _valid_timestamp(moment) or 0.0)]
# What somebody else says, and we pass on in messages of our own: they must not grow too large by it.
ReasonText = Annotated[str, AfterValidator(lambda text: shorten(text, MAX_REASON_TEXT))]
Labels = Annotated[tuple[Label, ...], AfterValidator(_without_duplicates)]
Seconds = Annotated[float, BeforeValidator(_parse_seconds), Field(gt=0, allow_inf_nan=False)]
LeaseSeconds = Annotated[float, Field(gt=0, le=timings.MAX_LEASE_SECONDS)]
Payload = Annotated[dict[str, JsonValue], AfterValidator(_check_payload_size)]
Output = Annotated[JsonValue, AfterValidator(_check_payload_size)]


class WireModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
