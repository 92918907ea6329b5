"""What asks the manager to decide: a body that is read strictly, and an answer within bounds."""

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
    """A body that asks for something. A field that we do not know is refused: passed over, it would ask for more."""

    model_config = ConfigDict(extra="forbid")


async def decided(answer: Awaitable[Answer]) -> Answer:
    """What the manager, or the broker, answers.

    Raises:
        HTTPException: 503; it does not lead, leaves, or takes too long.
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
    """The body; an empty one asks for nothing in particular."""
    body = await read_body(request)
    data = read_json(body) if body.strip() else {}
    try:
        return form.model_validate(data)
    except ValidationError as error:
        raise HTTPException(422, _complaint(error)) from error


async def read_body(request: Request) -> bytes:
    # A web page could send any other type to a manager on its reader's machine without being asked.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, "send JSON, with Content-Type: application/json")
    announced = request.headers.get("content-length", "0")
    _check_size(int(announced) if announced.isdigit() else 0)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        _check_size(len(body))
    return bytes(body)


def read_json(body: bytes) -> Any:
    try:
        from_json(body, allow_inf_nan=False)  # stricter than json, but for a name that stands twice
        return json.loads(body, object_pairs_hook=reject_duplicate_names)
    except ValueError as error:
        raise HTTPException(422, f"the body is not JSON: {one_line(str(error))}") from error


def _check_size(size: int) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise HTTPException(
            413, f"the body is over {MAX_MESSAGE_BYTES} bytes; submit the tasks in parts"
        )


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown field {name!r}"
    if first["type"] == "missing":
        return f"{name} is missing"
    return one_line(": ".join(filter(None, (name, with_value(first, first["input"])))))
