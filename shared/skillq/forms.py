"""What users write, read strictly: a field we do not know is a mistake here, while on the wire it is passed over.

One set of models for files and for `POST /api/tasks`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from skillq.errors import UsageError
from skillq.messages import (
    DEFAULT_RUN,
    MAX_LEVEL,
    Labels,
    Level,
    Task,
    Title,
    WorkerTitle,
    check_tasks,
    slug,
)
from skillq.messages.error_text import plain_error, quote_value, shorten, with_value

_MAX_SHOWN = 60


def _reject_boolean(written: object) -> object:
    """YAML reads `yes` as true, which would pass for 1."""
    if isinstance(written, bool):
        raise ValueError(f"should be a number, not {str(written).lower()}")  # noqa: TRY004 - for pydantic
    return written


def reject_duplicate_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of JSON that these make; for `json.loads`, which takes the last of two alike.

    Raises:
        ValueError: a name stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def _check_module_and_attribute(written: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", written):
        raise ValueError(f"should be module:attribute, as my_tasks:handlers, not {written!r}")
    return written


class TaskForm(Task):
    model_config = ConfigDict(frozen=True, extra="forbid")

    _reject_booleans = field_validator(
        "difficulty",
        "priority",
        "timeout",
        "deadline",
        "max_attempts",
        "escalate_by",
        "unroutable_after",
        mode="before",
    )(_reject_boolean)


class WorkerForm(BaseModel):
    """`handlers` names real handlers, `module:attribute`; without it the work is simulated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: WorkerTitle
    skill: Annotated[Level, BeforeValidator(_reject_boolean)]
    specialties: Labels = ()
    slots: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_reject_boolean)] = 1
    reserve: Annotated[int, Field(ge=0, le=MAX_LEVEL), BeforeValidator(_reject_boolean)] = 0
    handlers: Annotated[str, AfterValidator(_check_module_and_attribute)] | None = None


class SubmissionForm(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Title = DEFAULT_RUN
    tasks: Annotated[tuple[TaskForm, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        try:
            check_tasks(self.tasks)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self


class WorkFile(SubmissionForm):
    workers: tuple[WorkerForm, ...] = ()

    @model_validator(mode="after")
    def _check_worker_names(self) -> Self:
        seen: dict[str, str] = {}
        for name in (worker.name for worker in self.workers):
            if slug(name) in seen:
                raise ValueError(_name_clash_text(name, seen[slug(name)]))
            seen[slug(name)] = name
        return self


def _name_clash_text(name: str, other: str) -> str:
    if name == other:
        return f"worker {name}: two workers have this name; give each its own"
    return f"worker {name}: would be {slug(name)} on the wire, as {other} is; give it another name"


# --- what is wrong, in one line --------------------------------------------------------------

_ITEMS: Mapping[str, tuple[str, str, type[BaseModel]]] = {
    "tasks": ("task", "id", TaskForm),
    "workers": ("worker", "name", WorkerForm),
}
_ID_PATTERN_TEXT = "may hold letters, digits and _ . : @ + - only, and begins with a letter, a digit or _"


def explain_form(error: ValidationError, data: object) -> str:
    """What is wrong with `data`, in one line, with the item as its user knows it."""
    # A list whose items are all wrong counts as empty, too.
    complaints = [
        c for c in error.errors(include_url=False) if c["type"] != "too_short" or not c["input"]
    ]
    first = _most_helpful(complaints)
    where = _item_name(first["loc"], data)
    depth = 2 if where else 0
    field = ".".join(map(str, first["loc"][depth:]))
    known = _known_fields(error.title, first["loc"][:depth])
    what, explained = _describe_error(first, field, known)
    others = len(complaints) - 1 - _count_consequences(complaints, first, explained)
    more = f" (and {others} more)" if others else ""
    return one_line(": ".join(filter(None, (where, what))) + more)


def _most_helpful(complaints: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first; but of a misspelt field, the misspelling rather than that the right one is missing."""
    first = complaints[0]
    same_item = (c for c in complaints if c["loc"][:-1] == first["loc"][:-1])
    return next((c for c in same_item if c["type"] == "extra_forbidden"), first)


def _count_consequences(complaints: Iterable[ErrorDetails], first: ErrorDetails, explained: str | None) -> int:
    """How many complaints are gone once `first` is put right: a misspelt field is missing, too."""
    loc = (*first["loc"][:-1], explained)
    return sum(c["type"] == "missing" and c["loc"] == loc for c in complaints)


def _item_name(loc: tuple[int | str, ...], data: object) -> str:
    if len(loc) < 2 or loc[0] not in _ITEMS or not isinstance(loc[1], int):  # noqa: PLR2004 - ("tasks", 3)
        return ""
    kind, key, _ = _ITEMS[str(loc[0])]
    name = _value_at(data, (*loc[:2], key))
    if isinstance(name, str | int) and not isinstance(name, bool) and name != "":
        return f"{kind} {shorten(str(name), _MAX_SHOWN)}"
    return f"{kind} number {loc[1] + 1}"


def _value_at(data: object, path: tuple[int | str, ...]) -> object:
    for step in path:
        if isinstance(data, Mapping):
            data = data.get(step)
        elif isinstance(data, Sequence) and isinstance(step, int) and not isinstance(data, str):
            data = data[step]
        else:
            return None
    return data


def _known_fields(title: str, item: tuple[int | str, ...]) -> Iterable[str]:
    if item:
        return _ITEMS[str(item[0])][2].model_fields
    return (WorkFile if title == WorkFile.__name__ else SubmissionForm).model_fields


def _describe_error(complaint: ErrorDetails, field: str, known: Iterable[str]) -> tuple[str, str | None]:
    """The complaint, and the field that was meant where another is misspelt."""
    kind, value = complaint["type"], complaint["input"]
    if kind == "missing":
        return f"{field} is missing", None
    if kind == "extra_forbidden":
        meant = next(iter(get_close_matches(field.lower(), known, n=1)), None)
        hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(known)}"
        return f"unknown field {shorten(field, _MAX_SHOWN)!r} ({hint})", meant
    if kind == "string_pattern_mismatch":  # only ids have one
        said = f"{_ID_PATTERN_TEXT}, not {quote_value(value)}"
    else:  # our own complaints name the value where it helps
        said = plain_error(complaint) if kind == "value_error" else with_value(complaint, value)
    return f"{field}: {said}" if field else said, None


def one_line(text: str) -> str:
    """Text of a user as it may be shown: control characters, which a terminal would obey, are escaped."""
    return text if text.isprintable() else "".join(_escaped(text))


def _escaped(text: str) -> Iterator[str]:
    for char in text:
        yield char if char.isprintable() else char.encode("unicode_escape").decode()
