"""Encode messages as JSON, and decode them by their `type`."""

import json
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from skillq.errors import MalformedMessage
from skillq.messages.error_text import plain_error, quote_value, with_value
from skillq.messages.events import Probe, RunEvent, StatusReply, TaskEvents, WorkerEvent
from skillq.messages.tasks import StatusQuery, Submission
from skillq.messages.types import MAX_MESSAGE_BYTES, SCHEMA_VERSION
from skillq.messages.workers import (
    Assignments,
    Cancel,
    Connect,
    Disconnect,
    Heartbeat,
    Progress,
    Stop,
    TaskResults,
)

Message = (
    Submission | StatusQuery | Connect | Disconnect | Heartbeat | TaskResults | Progress
    | Assignments | Cancel | Stop | TaskEvents | WorkerEvent | RunEvent | StatusReply | Probe
)  # fmt: skip
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def encode(message: Message) -> bytes:
    """Return a message as JSON; a submission omits fields of tasks that have their defaults."""
    if isinstance(message, Submission):
        encoded_tasks = [task.to_wire() for task in message.tasks]
        return encode_submission(
            message.submission_id,
            message.run,
            message.run_title,
            encoded_tasks,
            part=message.part,
            parts=message.parts,
        )
    return message.__pydantic_serializer__.to_json(message)


def encode_submission(
    id: str,
    run: str,
    run_title: str,
    encoded_tasks: Iterable[bytes],
    *,
    part: int = 1,
    parts: int = 1,
) -> bytes:
    """Return a `Submission` as JSON, made of tasks that are encoded already (`Task.to_wire`)."""
    fields: dict[str, str | int] = {
        "type": "submission",
        "schema_version": SCHEMA_VERSION,
        "submission_id": id,
        "run": run,
        "run_title": run_title,
    }
    if parts > 1:
        fields |= {"part": part, "parts": parts}
    return b'%s,"tasks":[%s]}' % (to_json(fields)[:-1], b",".join(encoded_tasks))


def decode(body: bytes) -> Message:
    """Return the message in a body.

    Raises:
        MalformedMessage: the body is no message of this release; one line says why.
    """
    if len(body) > MAX_MESSAGE_BYTES:
        raise MalformedMessage(
            f"a message of {len(body)} bytes; at most {MAX_MESSAGE_BYTES} are allowed"
        )
    try:
        return _MESSAGE.validate_json(body)
    except ValidationError as error:
        raise MalformedMessage(_explain_invalid(body, error)) from error


def _explain_invalid(body: bytes, error: ValidationError) -> str:
    try:
        version = json.loads(body).get("schema_version", SCHEMA_VERSION)
    except (ValueError, AttributeError, RecursionError):
        return "not a JSON object"
    if version != SCHEMA_VERSION:
        return f"schema_version {version!r} is unknown; this release reads {SCHEMA_VERSION}"
    return first_error(error)


def first_error(error: ValidationError) -> str:
    """Return the first mistake of a validation error in one line: field, mistake and value."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "union_tag_not_found":
        return "type is missing"
    if first["type"] == "union_tag_invalid":
        return f"unknown type {quote_value(first['ctx']['tag'])}"
    if not field:
        return plain_error(first) + more
    link = " " if first["type"] in {"missing", "extra_forbidden"} else ": "
    return f"{field}{link}{with_value(first, first['input'])}{more}"
