"""The types that messages share: limits, statuses, names, lengths of time, payloads."""

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
# Messages in one submission, and tasks in each: the manager must decide all within a leader's lease.
MAX_PARTS, MAX_TASKS = 64, 3500
MAX_QUERIED_TASKS = 500  # tasks that one status query names
MAX_NAME = 63
_SURELY_FITS = MAX_PAYLOAD_BYTES // 16  # characters; each takes six bytes of JSON at most
_YEAR_10000 = 253_402_300_800.0
MAX_ID = 200  # of a submission, an incarnation, a store
MAX_LABELS = 1000  # of one worker: its profile is part of each heartbeat
MAX_REASON_TEXT = 4000
DEFAULT_RUN = "default"
DEFAULT_TYPE = "task"

MIN_LEVEL, MAX_LEVEL = 1, 10
SPECIALTY_BONUS = 2  # levels that a worker gains for a type that is a specialty
RESERVED_NAMES = frozenset(
    {"all"}
)  # no worker may have them: the routing key `stop.all` addresses all workers


class TaskStatus(StrEnum):
    """The status of a task. `skillq_manager.core.rules.lifecycle` has the allowed changes."""

    BLOCKED = "blocked"  # waits for dependencies
    READY = "ready"  # waits for a worker
    ASSIGNED = "assigned"  # given to a worker
    RUNNING = "running"  # the worker has started the attempt
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the handler raised an error
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    # Given up: too many lost attempts, no worker, or too large to send.
    DEAD_LETTERED = "dead_lettered"

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
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
    RETURNED = "returned"  # given back without having started; not counted
    LOST = "lost"  # its worker is gone
    CANCELLED = "cancelled"


# Each as a plain string: `value` is a slow property, and encoders are slower with a subclass of `str`.
STATUS_TEXT: Mapping[TaskStatus | Outcome, str] = {
    member: str(member.value) for statuses in (TaskStatus, Outcome) for member in statuses
}


class Unroutable(StrEnum):
    """The policy for a task that no connected worker can do."""

    WAIT = "wait"
    REJECT = "reject"  # dead-letter the task
    RELAX = "relax"  # require less: first no specialties, then one level less each time
    ESCALATE = "escalate"  # assign it to the most skilled worker


@lru_cache(maxsize=4096)  # the same few names occur again and again
def slug(written: str) -> str:
    """Return the name for a title: "Junior" → `junior`, "GPU box 1" → `gpu-box-1`.

    Raises:
        ValueError: the name is empty, or longer than 63 characters.
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
    """Accept whole numbers for ids and labels that users write; in messages they are text."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        text = handler(source)
        # In JSON only text is accepted: a Python function for each string would take longer than all checks.
        return core_schema.json_or_python_schema(
            json_schema=text,
            python_schema=core_schema.no_info_before_validator_function(_number_as_text, text),
        )


def _check_no_nul(written: str) -> str:
    """Refuse the character NUL, which PostgreSQL cannot store."""
    if "\0" in written:
        raise ValueError("has the character NUL; leave it out")
    return written


def _valid_timestamp(moment: float | None) -> float | None:
    """Return a time, or None if it is impossible: a broken clock must not cost a result."""
    return moment if moment is not None and 0 <= moment < _YEAR_10000 else None


def _check_makes_name(written: str) -> str:
    slug(written)
    return written


@lru_cache(
    maxsize=4096
)  # most messages have the same few labels, and the cache is faster than the checks
def _check_label(written: str) -> str:
    return _check_makes_name(_check_no_nul(written))


def _check_not_reserved(written: str) -> str:
    if slug(written) in RESERVED_NAMES:
        raise ValueError(f"{written!r} is reserved: choose another name")
    return written


def _check_payload_size(value: Any) -> Any:
    # A value far below the limit needs no exact measure, or none at all.
    if isinstance(value, str) and len(value) < _SURELY_FITS:
        return value
    if value and len(to_json(value)) > MAX_PAYLOAD_BYTES // 2:
        _check_exact_size(value)
    return value


def _check_exact_size(value: Any) -> None:
    """Refuse a value that is too large. All releases measure the value as ASCII JSON."""
    sent = from_json(to_json(value, inf_nan_mode="null"))
    size = len(json.dumps(sent, separators=(",", ":"), ensure_ascii=False).encode())
    if size > MAX_PAYLOAD_BYTES:
        raise ValueError(
            f"is {size} bytes; at most {MAX_PAYLOAD_BYTES} are allowed: pass a reference instead"
        )


def _parse_seconds(written: object) -> object:
    """Return a number of seconds for text with a number and a unit, as `30s`, `5m`, `2h`."""
    if isinstance(written, str) and (
        match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", written)
    ):
        return (
            float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2] or "s"]
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
# Seconds since the epoch (UTC) by the clock of another machine; None for an impossible time.
Timestamp = Annotated[float | None, AfterValidator(_valid_timestamp)]
# As `Timestamp`, but 0 for an impossible time.
StartTime = Annotated[float, AfterValidator(lambda moment: _valid_timestamp(moment) or 0.0)]
# Text of another process that skillq's own messages quote: shortened, so that they do not grow too large.
ReasonText = Annotated[str, AfterValidator(lambda text: shorten(text, MAX_REASON_TEXT))]
Labels = Annotated[tuple[Label, ...], AfterValidator(_without_duplicates)]
Seconds = Annotated[float, BeforeValidator(_parse_seconds), Field(gt=0, allow_inf_nan=False)]
LeaseSeconds = Annotated[float, Field(gt=0, le=timings.MAX_LEASE_SECONDS)]
Payload = Annotated[dict[str, JsonValue], AfterValidator(_check_payload_size)]
Output = Annotated[JsonValue, AfterValidator(_check_payload_size)]


class WireModel(BaseModel):
    """Base of all models in messages: frozen; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")
