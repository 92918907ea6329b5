"""The routes by which operators act: cancel, retry, and parked messages."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import Field

from skillq.forms import one_line
from skillq.messages import TaskStatus
from skillq_manager.core.model import TaskKey
from skillq_manager.manager import Manager
from skillq_manager.store.base import Filter
from skillq_manager.web import views
from skillq_manager.web.lookup import TheManager, run_of, task_of
from skillq_manager.web.models import (
    Cancelled,
    Page,
    ParkedView,
    Problem,
    RefusedTask,
    Retried,
)
from skillq_manager.web.paging import PageQuery, page
from skillq_manager.web.request_bodies import Form, decided, read_form
from skillq_manager.web.unreadable import UnreadableMessages

router = APIRouter(prefix="/api", responses={"default": {"model": Problem}})

_AT_ONCE = 500
_MAX_REASON = 1000


class CancelForm(Form):
    reason: str = Field("called off by an operator", min_length=1, max_length=_MAX_REASON)


class TaskRef(Form):
    run: str
    id: str


class RetryForm(Form):
    """Tasks by name, or else all that match: of this run, of this type, with this status."""

    tasks: list[TaskRef] | None = Field(None, min_length=1, max_length=10_000)
    run: str | None = None
    type: str | None = None
    status: Literal["dead_lettered", "failed", "timed_out", "cancelled"] | None = None


class NoForm(Form):
    """Nothing needs to be said."""


def _body(form: type[Form], *, required: bool = False) -> dict[str, Any]:
    schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
    PARTS.update(schema.pop("$defs", {}))
    return {
        "requestBody": {
            "required": required,
            "content": {"application/json": {"schema": schema}},
        }
    }


PARTS: dict[str, Any] = {}  # belong under components/schemas


# --- called off


@router.post("/tasks/{run}/{id}/cancel", openapi_extra=_body(CancelForm))
async def cancel_task(manager: TheManager, request: Request, run: str, id: str) -> Cancelled:
    """Call a task off wherever it is; a worker that has it is told."""
    form = await read_form(request, CancelForm)
    row = await task_of(manager, run, id)
    done = await decided(manager.cancel(row.run, [id], form.reason))
    if not done:
        row = await task_of(manager, run, id)
        raise HTTPException(409, f"task {id} in run {row.run} has ended already: {row.status}")
    return Cancelled(run=row.run, cancelled=len(done))


@router.post("/runs/{run}/cancel", openapi_extra=_body(CancelForm))
async def cancel_run(manager: TheManager, request: Request, run: str) -> Cancelled:
    """Call off all tasks of a run that have not ended."""
    form = await read_form(request, CancelForm)
    found = await run_of(manager, run)
    done = await decided(manager.cancel(found.run, None, form.reason))
    return Cancelled(run=found.run, cancelled=len(done))


# --- sent again


@router.post("/tasks/{run}/{id}/retry", openapi_extra=_body(NoForm))
async def retry_task(manager: TheManager, request: Request, run: str, id: str) -> Retried:
    """Send a task again that has ended without success; its attempts are counted from none again."""
    await read_form(request, NoForm)
    row = await task_of(manager, run, id)
    reply = await decided(manager.retry([(row.run, id)]))
    for reason in reply.refused.values():
        raise HTTPException(409, one_line(f"task {id} in run {row.run} {reason}"))
    return Retried(retried=len(reply.done), refused=[])


@router.post("/tasks/retry", openapi_extra=_body(RetryForm))
async def retry_tasks(manager: TheManager, request: Request) -> Retried:
    """Send tasks again: those that are named, or all that match (without a status, the dead-lettered ones).

    One that cannot be sent again is refused, and keeps no other from it.
    """
    form = await read_form(request, RetryForm)
    _must_lead(manager)
    answer = Retried(retried=0, refused=[])
    async for keys in _matching(manager, form):
        reply = await decided(manager.retry(keys))
        done = set(reply.done)
        answer.retried += len(done)
        answer.refused += [
            RefusedTask(run=run, id=id, reason=reply.refused.get((run, id), "is not there"))
            for run, id in keys
            if (run, id) not in done
        ]
    return answer


async def _matching(manager: Manager, form: RetryForm) -> AsyncIterator[Sequence[TaskKey]]:
    """In parts, so that no round of the manager takes long."""
    if form.tasks is not None:
        if form.run or form.type or form.status:
            raise HTTPException(422, "give tasks by name, or run, type and status; not both")
        # Together: one may depend on another.
        yield list(dict.fromkeys((views.name_of(t.run) or t.run, t.id) for t in form.tasks))
        return
    which = Filter(
        run=None if form.run is None else (await run_of(manager, form.run)).run,
        status=TaskStatus(form.status or TaskStatus.DEAD_LETTERED),
        type=form.type,
        limit=_AT_ONCE,
    )
    while rows := await manager.store.tasks(which):
        yield [(row.run, row.task.id) for row in rows]
        which = Filter(which.run, which.status, which.type, None, _AT_ONCE, rows[-1].seq)


# --- parked messages


async def _parked(request: Request) -> UnreadableMessages:
    parked: UnreadableMessages = request.app.state.parked
    return parked


TheUnreadable = Annotated[UnreadableMessages, Depends(_parked)]


@router.get("/parked", response_model=Page[ParkedView])
async def parked(letters: TheUnreadable, query: Annotated[PageQuery, Query()]) -> Response:
    """Messages that nobody could read, the oldest first. Looking takes them out of the queue for a moment."""
    first = query.after_number
    found = await decided(letters.first_messages(first, query.limit + 1))
    numbered = list(enumerate(found, first + 1))
    return await page(numbered, query.limit, lambda row: row[1], lambda row: str(row[0]))


@router.post("/parked/{message_id:path}/retry", openapi_extra=_body(NoForm))
async def retry_parked(
    manager: TheManager, letters: TheUnreadable, request: Request, message_id: str
) -> ParkedView:
    """Publish a message again as it was first; one that still cannot be read is parked again."""
    await read_form(request, NoForm)
    _must_lead(manager)
    return await decided(letters.publish_again(message_id))


@router.delete("/parked/{message_id:path}")
async def delete_parked(manager: TheManager, letters: TheUnreadable, message_id: str) -> ParkedView:
    """Throw a message away; the answer is the last of it."""
    _must_lead(manager)
    return await decided(letters.delete_message(message_id))


def _must_lead(manager: Manager) -> None:
    if not manager.is_leading:
        raise HTTPException(503, _NO_LEADER)


_NO_LEADER = "this manager does not lead now; ask again in a moment"
