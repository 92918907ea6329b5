"""Convert the return values of handlers to JSON that every decoder of a message can read."""

import json
from math import isfinite
from typing import TypeGuard

from pydantic import JsonValue
from pydantic_core import to_json, to_jsonable_python

from skillq.forms import one_line
from skillq.messages import MAX_PAYLOAD_BYTES, shorten
from skillq.transport.batching import check_readable

# Made once: the construction takes longer than a call.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

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
    return len(body) <= MAX_PAYLOAD_BYTES // 2 and b"NaN" not in body and b"Infinity" not in body
