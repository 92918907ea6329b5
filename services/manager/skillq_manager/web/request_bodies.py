"""Strict reading of request bodies, and bounded waiting for the manager's answer."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from skillq import timings
from skillq.errors import TransportError, Unreachable
from skillq.forms import one_line, reject_duplicate_names
from skillq.messages import MAX_MESSAGE_BYTES
from skillq.messages.error_text import with_value

Answer = TypeVar("Answer")
FormT = TypeVar("FormT", bound="Form")


class Form(BaseModel):
    """The base of request bodies. Unknown fields are refused, not ignored.

    To ignore a misspelled field could make a request apply to more tasks than its sender meant.
    """

    model_config = ConfigDict(extra="forbid")


async def wait_for_answer(answer: Awaitable[Answer]) -> Answer:
    """Wait for the answer of the manager or the broker, at most `timings.DECISION_SECONDS`.

    Raises:
        HTTPException: 503; the manager does not lead or stops, or there is no answer in time.
    """
    try:
        async with asyncio.timeout(timings.DECISION_SECONDS):
            return await answer
    except Unreachable as error:
        raise HTTPException(503, one_line(str(error))) from error
    except TransportError as error:
        reason = f"the broker does not answer as it should: {error}; ask again"
        raise HTTPException(503, one_line(reason)) from error
    except TimeoutError as error:
        reason = (
            f"no decision within {timings.DECISION_SECONDS:g} s; ask again, nothing is done twice"
        )
        raise HTTPException(503, reason) from error


async def read_form(request: Request, form: type[FormT]) -> FormT:
    """Read the body of a request as a form; an empty body is a form with default values.

    Raises:
        HTTPException: 413, 415 or 422; the body is too large, is not JSON, or does not fit the form.
    """
    body = await read_body(request)
    data = read_json(body) if body.strip() else {}
    try:
        return form.model_validate(data)
    except ValidationError as error:
        raise HTTPException(422, _explain_invalid_form(error)) from error


async def read_body(request: Request) -> bytes:
    """Read the body of a JSON request.

    Raises:
        HTTPException: 413 or 415; the body is too large, or has another media type.
    """
    # Browsers let any web page send other media types to this machine without a CORS check.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, "send JSON, with Content-Type: application/json")
    declared_size = request.headers.get("content-length", "0")
    _check_size(int(declared_size) if declared_size.isdigit() else 0)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        _check_size(len(body))
    return bytes(body)


def read_json(body: bytes) -> Any:
    """Parse JSON strictly.

    Raises:
        HTTPException: 422, the body is not JSON, or repeats a name in an object.
    """
    try:
        from_json(body, allow_inf_nan=False)  # stricter than `json`, except for repeated names
        return json.loads(body, object_pairs_hook=reject_duplicate_names)
    except ValueError as error:
        raise HTTPException(422, f"the body is not JSON: {one_line(str(error))}") from error


def _check_size(size: int) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise HTTPException(
            413, f"the body is over {MAX_MESSAGE_BYTES} bytes; submit the tasks in parts"
        )


def _explain_invalid_form(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown field {name!r}"
    if problem["type"] == "missing":
        return f"{name} is missing"
    return one_line(": ".join(filter(None, (name, with_value(problem, problem["input"])))))
