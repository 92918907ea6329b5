"""Convert the return values of handlers to JSON that every decoder of a message can read."""

import json
import re
from collections.abc import Iterator
from itertools import count
from math import isfinite
from typing import TypeGuard

from pydantic import BaseModel, JsonValue
from pydantic_core import to_json, to_jsonable_python

from skillq.forms import one_line
from skillq.messages import MAX_PAYLOAD_BYTES, shorten
from skillq.messages.non_finite import describe_non_finite, find_non_finite
from skillq.transport.batching import check_readable

# Made once: the construction takes longer than a call.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

_SUSPECT = re.compile(rb"NaN|Infinity|null")

_MAX_PLAIN_LENGTH, _MAX_PLAIN_INT = 1000, 2**63


class OutputError(Exception):
    """Raised when the return value of a handler cannot be a task's output."""


def to_output(value: object) -> JsonValue:
    """Return the output of a task for the return value of its handler.

    Raises:
        OutputError: the value cannot be written as JSON, or is too large.
    """
    if _is_plain(value):
        return value
    try:
        output: JsonValue = to_jsonable_python(value)
        if _is_surely_readable(output):
            return output
        _check_finite(value, output)
        body = _encode(output).encode()
        check_readable(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise OutputError(
            f"the handler returned what cannot be written as JSON: {one_line(shorten(str(error), 300))}"
        ) from error
    if len(body) > MAX_PAYLOAD_BYTES:
        raise OutputError(
            f"the output is {len(body)} bytes; at most {MAX_PAYLOAD_BYTES} are allowed: return a reference instead"
        )
    return output


def _check_finite(value: object, output: JsonValue) -> None:
    """Refuse NaN and infinity in the output, and in the value where the output has null instead.

    Raises:
        ValueError: the message names the field, the number and the remedy.
    """
    found = find_non_finite(output, "output") or _find_hidden(value, output, ("output",))
    if found is not None:
        raise ValueError(f"{found}; return null or text instead")


def _find_hidden(value: object, output: JsonValue, path: tuple[object, ...]) -> str | None:
    """Return the NaN or infinity of a model's field that pydantic has converted to None, or None.

    Pydantic converts such a field if its type is not `float`, for example `Any`. A serializer of
    the user's own may return None for any field.
    """
    if isinstance(value, float) and output is None and not isfinite(value):
        return describe_non_finite(path, value)
    for key, item, written in _pairs(value, output):
        if found := _find_hidden(item, written, (*path, key)):
            return found
    return None


def _pairs(value: object, output: JsonValue) -> Iterator[tuple[object, object, JsonValue]]:
    """Yield each key of a collection or a model, with the item in the value and in the output."""
    if isinstance(output, list) and isinstance(value, list | tuple):
        yield from zip(count(), value, output, strict=False)
    elif isinstance(output, dict):
        if isinstance(value, BaseModel):
            decorators = type(value).__pydantic_decorators__
            own = decorators.field_serializers or decorators.model_serializers
            value = {} if own else value.__dict__
        items = value if isinstance(value, dict) else {}
        yield from ((key, item, output[key]) for key, item in items.items() if key in output)


def _is_plain(value: object) -> TypeGuard[JsonValue]:
    """Return whether a value is a short JSON scalar, as most outputs are; a quick check."""
    if type(value) is str:
        return value.isascii() and len(value) < _MAX_PLAIN_LENGTH
    if type(value) is int:
        return -_MAX_PLAIN_INT < value < _MAX_PLAIN_INT
    if type(value) is float:
        return isfinite(value)
    return value is None or type(value) is bool


def _is_surely_readable(output: JsonValue) -> bool:
    """Return whether a quick check shows that the output is readable.

    If it is False, the output may be too large or unreadable, and the full check finds the reason.
    """
    try:
        body = to_json(output)
        check_readable(body)
    except ValueError:
        return False
    # Pydantic may have converted NaN and infinity to null.
    return len(body) <= MAX_PAYLOAD_BYTES // 2 and not _SUSPECT.search(body)
