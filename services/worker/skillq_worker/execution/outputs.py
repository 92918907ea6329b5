"""What handlers return, as JSON that every reader of a message can read."""

import json
from math import isfinite
from typing import TypeGuard

from pydantic import JsonValue
from pydantic_core import to_json, to_jsonable_python

from skillq.forms import one_line
from skillq.messages import MAX_PAYLOAD_BYTES, shorten
from skillq.transport.batching import check_readable

# Made once: it takes longer to make than to use.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

_SHORT, _LARGE = 1000, 2**63


class OutputError(Exception):
    """Raised when what a handler returned cannot be a task's output."""


def as_output(value: object) -> JsonValue:
    """The output of a task.

    Raises:
        OutputError: it cannot be written as JSON, or is too large.
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
    """Whether it is short JSON as it is: most outputs are, and to look closer takes far longer."""
    if type(value) is str:
        return value.isascii() and len(value) < _SHORT
    if type(value) is int:
        return -_LARGE < value < _LARGE
    if type(value) is float:
        return isfinite(value)
    return value is None or type(value) is bool


def _is_surely_readable(output: JsonValue) -> bool:
    """Whether a quick look suffices: not where it may be too large, and not where somebody has to be told what is wrong."""
    try:
        body = to_json(output)
        check_readable(body)
    except ValueError:
        return False
    return len(body) <= MAX_PAYLOAD_BYTES // 2 and b"NaN" not in body and b"Infinity" not in body
