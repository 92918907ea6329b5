"""All messages, by their `type`; to bytes and back."""

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
    """A message as JSON. A submission leaves out what is as by default: most fields of most tasks."""
    if isinstance(message, Submission):
        briefs = [task.to_wire() for task in message.tasks]
        return encode_submission(
            message.submission_id,
            message.run,
            message.run_title,
            briefs,
            part=message.part,
            parts=message.parts,
        )
    return message.__pydantic_serializer__.to_json(message)


def encode_submission(
    id: str, run: str, run_title: str, briefs: Iterable[bytes], *, part: int = 1, parts: int = 1
) -> bytes:
    """A `Submission` as JSON, of tasks that have been written already (`Task.brief`)."""
    fields: dict[str, str | int] = {
        "type": "submission",
        "schema_version": SCHEMA_VERSION,
        "submission_id": id,
        "run": run,
        "run_title": run_title,
    }
    if parts > 1:
        fields |= {"part": part, "parts": parts}
    return b'%s,"tasks":[%s]}' % (to_json(fields)[:-1], b",".join(briefs))


def decode(body: bytes) -> Message:
    """Read a message.

    Raises:
        MalformedMessage: with one line that says what is wrong with the body.
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
    """The first complaint of a validation error, in one line: where, what, and the value."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "union_tag_not_found":
        return "type is missing"
    if first["type"] == "union_tag_invalid":
        return f"unknown type {quote_value(first['ctx']['tag'])}"
    if not where:
        return plain_error(first) + more
    link = " " if first["type"] in {"missing", "extra_forbidden"} else ": "
    return f"{where}{link}{with_value(first, first['input'])}{more}"
