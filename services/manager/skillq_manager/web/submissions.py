"""`POST /api/tasks`: read strictly, hand to the manager, say what came of it."""

import asyncio
from uuid import uuid4

from fastapi import HTTPException, Request
from pydantic import ValidationError
from pydantic_core import from_json

from skillq.errors import Unreachable
from skillq.forms import SubmissionForm, explain_form, one_line
from skillq.messages import MAX_MESSAGE_BYTES, Submission, slug
from skillq_manager.manager import Manager
from skillq_manager.web.models import Accepted

DECIDE_SECONDS = 30.0


async def accept(manager: Manager, request: Request) -> Accepted:
    """Take in what the body asks for, as a whole.

    Raises:
        HTTPException: 409, 413, 415, 422 or 503, with one line that says why not.
    """
    # A web page could send any other type to a manager on its reader's machine without being asked.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON, with Content-Type: application/json")
    form = _read(await _body(request))
    submission = Submission(
        submission_id=uuid4().hex, run=slug(form.run), run_title=form.run, tasks=form.tasks
    )
    try:
        async with asyncio.timeout(DECIDE_SECONDS):
            answer = await manager.submit(submission)
    except Unreachable as error:
        raise HTTPException(503, str(error)) from error
    except TimeoutError as error:
        reason = f"the manager did not decide within {DECIDE_SECONDS:g} s; submit again, nothing is done twice"
        raise HTTPException(503, reason) from error
    if answer.reason is not None:
        raise HTTPException(409, one_line(answer.reason))
    return Accepted(run=submission.run, accepted=answer.accepted, known=answer.known)


async def _body(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    _check_size(int(announced) if announced.isdigit() else 0)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        _check_size(len(body))
    return bytes(body)


def _check_size(size: int) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise HTTPException(
            413, f"the body is over {MAX_MESSAGE_BYTES} bytes; submit the tasks in parts"
        )


def _read(body: bytes) -> SubmissionForm:
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HTTPException(422, f"the body is not JSON: {one_line(str(error))}") from error
    try:
        return SubmissionForm.model_validate(data)
    except ValidationError as error:
        raise HTTPException(422, explain_form(error, data)) from error
