"""`POST /api/tasks`: read the body, submit the tasks to the manager, return the receipt."""

from uuid import uuid4

from fastapi import HTTPException, Request
from pydantic import ValidationError

from skillq.forms import SubmissionForm, explain_form, one_line
from skillq.messages import Submission, slug
from skillq_manager.manager import Manager
from skillq_manager.web.models import Accepted
from skillq_manager.web.request_bodies import read_body, read_json, wait_for_answer


async def accept(manager: Manager, request: Request) -> Accepted:
    """Submit the tasks of the body to the manager, as a whole.

    Raises:
        HTTPException: 409, 413, 415, 422 or 503, with the reason in one line.
    """
    form = _read_submission(await read_body(request))
    submission = Submission(
        submission_id=uuid4().hex, run=slug(form.run), run_title=form.run, tasks=form.tasks
    )
    answer = await wait_for_answer(manager.submit(submission))
    if answer.reason is not None:
        raise HTTPException(409, one_line(answer.reason))
    return Accepted(run=submission.run, accepted=answer.accepted, known=answer.known)


def _read_submission(body: bytes) -> SubmissionForm:
    data = read_json(body)
    try:
        return SubmissionForm.model_validate(data)
    except ValidationError as error:
        raise HTTPException(422, explain_form(error, data)) from error
