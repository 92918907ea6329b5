"""The routes under /api."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from skillq.forms import SubmissionForm
from skillq.messages import TaskStatus
from skillq_manager.manager import Manager
from skillq_manager.store.base import Filter, RunRow
from skillq_manager.web import submissions, views
from skillq_manager.web.models import (
    Accepted,
    Page,
    Problem,
    RunView,
    Summary,
    TaskPage,
    TaskView,
    WorkerView,
)
from skillq_manager.web.paging import PageQuery, page

router = APIRouter(prefix="/api", responses={"default": {"model": Problem}})


async def _manager(request: Request) -> Manager:
    manager: Manager = request.app.state.manager
    return manager


TheManager = Annotated[Manager, Depends(_manager)]


class TaskQuery(PageQuery):
    """Tasks that match all that is given; `run` and `worker` by name or as the user wrote them."""

    run: str | None = None
    status: TaskStatus | None = None
    type: str | None = None
    worker: str | None = None


@router.get("/summary")
async def summary(manager: TheManager) -> Summary:
    return await views.summary(manager)


@router.get("/runs", response_model=Page[RunView])
async def runs(manager: TheManager, query: Annotated[PageQuery, Query()]) -> Response:
    """In order of submission."""
    rows = await manager.store.runs()
    first = query.after_number
    numbered = list(enumerate(rows[first : first + query.limit + 1], first + 1))
    return await page(
        numbered, query.limit, lambda row: RunView.of(row[1]), lambda row: str(row[0])
    )


@router.get("/runs/{run}")
async def run(manager: TheManager, run: str) -> RunView:
    return RunView.of(await _run(manager, run))


@router.get("/tasks", response_model=Page[TaskView])
async def tasks(manager: TheManager, query: Annotated[TaskQuery, Query()]) -> Response:
    """In order of submission."""
    which = Filter(
        run=None if query.run is None else (await _run(manager, query.run)).run,
        status=query.status,
        type=query.type,
        worker=None if query.worker is None else await _worker(manager, query.worker),
        limit=query.limit + 1,
        cursor=query.after_number,
    )
    rows = await manager.store.tasks(which)
    return await page(
        rows,
        query.limit,
        lambda row: TaskView.of(row, views.why(manager, row)),
        lambda row: str(row.seq),
    )


@router.get("/tasks/{run}/{id}")
async def task(manager: TheManager, run: str, id: str) -> TaskPage:
    found = await _run(manager, run)
    row = await manager.store.task((found.run, id))
    if row is None:
        raise HTTPException(404, f"there is no task {id!r} in run {found.title!r}")
    return TaskPage.of(row, views.why(manager, row))


@router.get("/workers", response_model=Page[WorkerView])
async def workers(manager: TheManager, query: Annotated[PageQuery, Query()]) -> Response:
    """All workers ever seen, in order of their names."""
    rows = await views.workers(manager, query.after, query.limit + 1)
    return await page(rows, query.limit, lambda row: row[1], lambda row: row[0])


_FORM = SubmissionForm.model_json_schema(ref_template="#/components/schemas/{model}")
FORM_PARTS: dict[str, Any] = _FORM.pop("$defs")  # belong under components/schemas
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _FORM}}}
}


@router.post("/tasks", status_code=201, openapi_extra=_BODY)
async def submit(manager: TheManager, request: Request) -> Accepted:
    """Submit tasks; they are taken in or refused as a whole. The same again is no harm."""
    return await submissions.accept(manager, request)


async def _run(manager: Manager, written: str) -> RunRow:
    found = await views.find_run(manager, written)
    if found is None:
        raise HTTPException(404, f"there is no run {written!r}")
    return found


async def _worker(manager: Manager, written: str) -> str:
    title = await views.find_worker(manager, written)
    if title is None:
        raise HTTPException(404, f"there was never a worker {written!r}")
    return title
