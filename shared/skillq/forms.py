"""Strict models of the input that users write in files and in `POST /api/tasks`.

An unknown field is an error here, while readers of messages ignore it. `explain_form` turns the mistakes of
pydantic into one line of text.
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
from skillq.messages.non_finite import find_non_finite

_MAX_SHOWN = 60


def _reject_boolean(written: object) -> object:
    """Refuse a boolean, which pydantic would accept as 1 or 0."""
    if isinstance(written, bool):
        raise ValueError(f"should be a number, not {str(written).lower()}")  # noqa: TRY004 - for pydantic
    return written


def reject_duplicate_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict, and refuse duplicate names.

    It is an `object_pairs_hook` for `json.loads`, which would keep the last of two fields with one name.

    Raises:
        ValueError: a name occurs twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        (duplicate, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{duplicate!r} stands twice in one object")
    return fields


def _check_module_and_attribute(written: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", written):
        raise ValueError(f"should be module:attribute, as my_tasks:handlers, not {written!r}")
    return written


class TaskForm(Task):
    """A task as a user writes it: without unknown fields, and without booleans for numbers."""

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

    @field_validator("payload")
    @classmethod
    def _reject_non_finite(cls, payload: dict[str, Any]) -> dict[str, Any]:
        found = find_non_finite(payload, "payload")
        if found is not None:
            raise ValueError(
                f"{found.removeprefix('payload.')}, which JSON cannot express; write null or text instead"
            )
        return payload


class WorkerForm(BaseModel):
    """A worker in a file. `handlers` is `module:attribute`; without it, work is simulated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: WorkerTitle
    skill: Annotated[Level, BeforeValidator(_reject_boolean)]
    specialties: Labels = ()
    slots: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_reject_boolean)] = 1
    reserve: Annotated[int, Field(ge=0, le=MAX_LEVEL), BeforeValidator(_reject_boolean)] = 0
    handlers: Annotated[str, AfterValidator(_check_module_and_attribute)] | None = None


class SubmissionForm(BaseModel):
    """The tasks of one submission, as a user writes them."""

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
    """A file with tasks, and with workers for the embedded mode."""

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


# --- mistakes as one line of text ------------------------------------------------------------

_ITEMS: Mapping[str, tuple[str, str, type[BaseModel]]] = {
    "tasks": ("task", "id", TaskForm),
    "workers": ("worker", "name", WorkerForm),
}
_ID_PATTERN_TEXT = (
    "may hold letters, digits and _ . : @ + - only, and begins with a letter, a digit or _"
)


def explain_form(error: ValidationError, data: object) -> str:
    """Return what is wrong with `data` in one line that names the item as its user knows it."""
    # If all items of a list are wrong, pydantic also reports the list as empty.
    errors = [
        c for c in error.errors(include_url=False) if c["type"] != "too_short" or not c["input"]
    ]
    first = _most_helpful(errors)
    item = _item_name(first["loc"], data)
    depth = 2 if item else 0
    field = ".".join(map(str, first["loc"][depth:]))
    known = _known_fields(error.title, first["loc"][:depth])
    description, meant_field = _describe_error(first, field, known)
    others = len(errors) - 1 - _count_consequences(errors, first, meant_field)
    more = f" (and {others} more)" if others else ""
    return one_line(": ".join(filter(None, (item, description))) + more)


def _most_helpful(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Return the first error; of a misspelt field, the misspelling, not the missing field."""
    first = errors[0]
    same_item = (c for c in errors if c["loc"][:-1] == first["loc"][:-1])
    return next((c for c in same_item if c["type"] == "extra_forbidden"), first)


def _count_consequences(
    errors: Iterable[ErrorDetails], first: ErrorDetails, meant_field: str | None
) -> int:
    """Return how many errors `first` has caused: a misspelt field is also reported as missing."""
    loc = (*first["loc"][:-1], meant_field)
    return sum(c["type"] == "missing" and c["loc"] == loc for c in errors)


def _item_name(loc: tuple[int | str, ...], data: object) -> str:
    if len(loc) < 2 or loc[0] not in _ITEMS or not isinstance(loc[1], int):  # noqa: PLR2004 - ("tasks", 3)
        return ""
    noun, key, _ = _ITEMS[str(loc[0])]
    name = _value_at(data, (*loc[:2], key))
    if isinstance(name, str | int) and not isinstance(name, bool) and name != "":
        return f"{noun} {shorten(str(name), _MAX_SHOWN)}"
    return f"{noun} number {loc[1] + 1}"


def _value_at(data: object, path: tuple[int | str, ...]) -> object:
    for step in path:
        if isinstance(data, Mapping):
            data = data.get(step)
        elif isinstance(data, Sequence) and isinstance(step, int) and not isinstance(data, str):
            data = data[step]
        else:
            return None
    return data


def _known_fields(title: str, item_path: tuple[int | str, ...]) -> Iterable[str]:
    if item_path:
        return _ITEMS[str(item_path[0])][2].model_fields
    return (WorkFile if title == WorkFile.__name__ else SubmissionForm).model_fields


def _describe_error(
    details: ErrorDetails, field: str, known: Iterable[str]
) -> tuple[str, str | None]:
    """Return the text of an error, and the field that a misspelt one stands for, or None."""
    error_type, value = details["type"], details["input"]
    if error_type == "missing":
        return f"{field} is missing", None
    if error_type == "extra_forbidden":
        meant = next(iter(get_close_matches(field.lower(), known, n=1)), None)
        hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(known)}"
        return f"unknown field {shorten(field, _MAX_SHOWN)!r} ({hint})", meant
    if error_type == "string_pattern_mismatch":  # only ids have one
        text = f"{_ID_PATTERN_TEXT}, not {quote_value(value)}"
    else:  # errors of our validators name the value if that helps
        text = plain_error(details) if error_type == "value_error" else with_value(details, value)
    return f"{field}: {text}" if field else text, None


def one_line(text: str) -> str:
    """Return a user's text with control characters, which a terminal would obey, escaped."""
    return text if text.isprintable() else "".join(_escaped(text))


def _escaped(text: str) -> Iterator[str]:
    for char in text:
        yield char if char.isprintable() else char.encode("unicode_escape").decode()
