"""The routes with which operators act: cancel, retry, and unreadable messages."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import Field

from skillq.forms import one_line
from skillq.messages import TaskStatus
from skillq_manager.core.model import TaskKey
from skillq_manager.manager import Manager
from skillq_manager.store.base import TaskFilter
from skillq_manager.web import views
from skillq_manager.web.lookup import ManagerDependency, require_run, require_task
from skillq_manager.web.models import (
    Cancelled,
    Page,
    ParkedView,
    Problem,
    RefusedTask,
    Retried,
)
from skillq_manager.web.paging import PageQuery, page_response
from skillq_manager.web.request_bodies import Form, read_form, wait_for_answer
from skillq_manager.web.unreadable import UnreadableMessages

router = APIRouter(prefix="/api", responses={"default": {"model": Problem}})

_RETRY_PAGE = 500
_MAX_REASON = 1000


class CancelForm(Form):
    """The body of a request to cancel."""

    reason: str = Field("cancelled by an operator", min_length=1, max_length=_MAX_REASON)


class TaskRef(Form):
    """The run and the id of a task."""

    run: str
    id: str


class RetryForm(Form):
    """The tasks to retry: a list of tasks, or else all tasks that match run, type and status."""

    tasks: list[TaskRef] | None = Field(None, min_length=1, max_length=10_000)
    run: str | None = None
    type: str | None = None
    status: Literal["dead_lettered", "failed", "timed_out", "cancelled"] | None = None


class NoForm(Form):
    """An empty body, or a JSON object without fields."""


def _request_body(form: type[Form], *, required: bool = False) -> dict[str, Any]:
    schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
    FORM_SCHEMAS.update(schema.pop("$defs", {}))
    return {
        "requestBody": {
            "required": required,
            "content": {"application/json": {"schema": schema}},
        }
    }


FORM_SCHEMAS: dict[str, Any] = {}  # `create_app` adds these to components/schemas of OpenAPI


# --- Cancel


@router.post("/tasks/{run}/{id}/cancel", openapi_extra=_request_body(CancelForm))
async def cancel_task(manager: ManagerDependency, request: Request, run: str, id: str) -> Cancelled:
    """Cancel a task that has not ended; a worker that has the task gets a message."""
    form = await read_form(request, CancelForm)
    row = await require_task(manager, run, id)
    done = await wait_for_answer(manager.cancel(row.run, [id], form.reason))
    if not done:
        row = await require_task(manager, run, id)
        raise HTTPException(409, f"task {id} in run {row.run} has ended already: {row.status}")
    return Cancelled(run=row.run, cancelled=len(done))


@router.post("/runs/{run}/cancel", openapi_extra=_request_body(CancelForm))
async def cancel_run(manager: ManagerDependency, request: Request, run: str) -> Cancelled:
    """Cancel all tasks of a run that have not ended."""
    form = await read_form(request, CancelForm)
    found = await require_run(manager, run)
    done = await wait_for_answer(manager.cancel(found.run, None, form.reason))
    return Cancelled(run=found.run, cancelled=len(done))


# --- Retry


@router.post("/tasks/{run}/{id}/retry", openapi_extra=_request_body(NoForm))
async def retry_task(manager: ManagerDependency, request: Request, run: str, id: str) -> Retried:
    """Retry a task that ended without success; its failed and lost attempts are forgotten."""
    await read_form(request, NoForm)
    row = await require_task(manager, run, id)
    reply = await wait_for_answer(manager.retry([(row.run, id)]))
    for reason in reply.refused.values():
        raise HTTPException(409, one_line(f"task {id} in run {row.run} {reason}"))
    return Retried(retried=len(reply.done), refused=[])


@router.post("/tasks/retry", openapi_extra=_request_body(RetryForm))
async def retry_tasks(manager: ManagerDependency, request: Request) -> Retried:
    """Retry the given tasks, or all that match; without a status, dead-lettered ones.

    A task that cannot be retried is refused; the other tasks are retried nevertheless.
    """
    form = await read_form(request, RetryForm)
    _must_lead(manager)
    answer = Retried(retried=0, refused=[])
    async for keys in _matching_tasks(manager, form):
        reply = await wait_for_answer(manager.retry(keys))
        done = set(reply.done)
        answer.retried += len(done)
        answer.refused += [
            RefusedTask(run=run, id=id, reason=reply.refused.get((run, id), "is not there"))
            for run, id in keys
            if (run, id) not in done
        ]
    return answer


async def _matching_tasks(manager: Manager, form: RetryForm) -> AsyncIterator[Sequence[TaskKey]]:
    """Yield the tasks to retry in parts, so that no round of the manager takes long."""
    if form.tasks is not None:
        if form.run or form.type or form.status:
            raise HTTPException(422, "give tasks by name, or run, type and status; not both")
        # In one part, because a task may depend on another.
        yield list(dict.fromkeys((views.wire_name(t.run) or t.run, t.id) for t in form.tasks))
        return
    task_filter = TaskFilter(
        run=None if form.run is None else (await require_run(manager, form.run)).run,
        status=TaskStatus(form.status or TaskStatus.DEAD_LETTERED),
        type=form.type,
        limit=_RETRY_PAGE,
    )
    while rows := await manager.store.tasks(task_filter):
        yield [(row.run, row.task.id) for row in rows]
        task_filter = TaskFilter(
            task_filter.run, task_filter.status, task_filter.type, None, _RETRY_PAGE, rows[-1].seq
        )


# --- Unreadable messages


async def _unreadable_messages(request: Request) -> UnreadableMessages:
    unreadable: UnreadableMessages = request.app.state.unreadable
    return unreadable


UnreadableDependency = Annotated[UnreadableMessages, Depends(_unreadable_messages)]


@router.get("/parked", response_model=Page[ParkedView])
async def parked(messages: UnreadableDependency, query: Annotated[PageQuery, Query()]) -> Response:
    """List unreadable messages, the oldest first; others cannot see them meanwhile."""
    first = query.after_number
    found = await wait_for_answer(messages.first_messages(first, query.limit + 1))
    numbered = list(enumerate(found, first + 1))
    return await page_response(numbered, query.limit, lambda row: row[1], lambda row: str(row[0]))


@router.post("/parked/{message_id:path}/retry", openapi_extra=_request_body(NoForm))
async def retry_parked(
    manager: ManagerDependency, messages: UnreadableDependency, request: Request, message_id: str
) -> ParkedView:
    """Publish a message again; if still unreadable, it returns to the dead-letter queue."""
    await read_form(request, NoForm)
    _must_lead(manager)
    return await wait_for_answer(messages.publish_again(message_id))


@router.delete("/parked/{message_id:path}")
async def delete_parked(
    manager: ManagerDependency, messages: UnreadableDependency, message_id: str
) -> ParkedView:
    """Delete an unreadable message for good, and return it."""
    _must_lead(manager)
    return await wait_for_answer(messages.delete_message(message_id))


def _must_lead(manager: Manager) -> None:
    if not manager.is_leading:
        raise HTTPException(503, _NO_LEADER)


_NO_LEADER = "this manager does not lead now; ask again in a moment"
