"""The routes under /api that read, and the route that submits tasks."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from skillq.forms import SubmissionForm
from skillq.messages import TaskStatus
from skillq_manager.store.base import TaskFilter
from skillq_manager.web import submissions, views
from skillq_manager.web.lookup import ManagerDependency, require_run, require_task, require_worker
from skillq_manager.web.models import (
    Accepted,
    DeadTask,
    Explanation,
    Page,
    Problem,
    RunView,
    Summary,
    TaskPage,
    TaskView,
    WorkerView,
)
from skillq_manager.web.paging import PageQuery, page_response

router = APIRouter(prefix="/api", responses={"default": {"model": Problem}})


class TaskQuery(PageQuery):
    """A query of tasks: each given field must match. `run` and `worker` are names or titles."""

    run: str | None = None
    status: TaskStatus | None = None
    type: str | None = None
    worker: str | None = None


@router.get("/summary")
async def summary(manager: ManagerDependency) -> Summary:
    """Return a summary of all runs, workers and the manager."""
    return await views.summary(manager)


@router.get("/runs", response_model=Page[RunView])
async def runs(manager: ManagerDependency, query: Annotated[PageQuery, Query()]) -> Response:
    """List runs, in order of submission."""
    rows = await manager.store.runs()
    first = query.after_number
    numbered = list(enumerate(rows[first : first + query.limit + 1], first + 1))
    return await page_response(
        numbered, query.limit, lambda row: RunView.from_run(row[1]), lambda row: str(row[0])
    )


@router.get("/runs/{run}")
async def run(manager: ManagerDependency, run: str) -> RunView:
    """Return a run by its name or title."""
    return RunView.from_run(await require_run(manager, run))


@router.get("/tasks", response_model=Page[TaskView])
async def tasks(manager: ManagerDependency, query: Annotated[TaskQuery, Query()]) -> Response:
    """List tasks, in order of submission."""
    task_filter = TaskFilter(
        run=None if query.run is None else (await require_run(manager, query.run)).run,
        status=query.status,
        type=query.type,
        worker=None if query.worker is None else await require_worker(manager, query.worker),
        limit=query.limit + 1,
        cursor=query.after_number,
    )
    rows = await manager.store.tasks(task_filter)
    return await page_response(
        rows,
        query.limit,
        lambda row: TaskView.from_row(row, views.current_reason(manager, row)),
        lambda row: str(row.seq),
    )


@router.get("/tasks/{run}/{id}")
async def task(manager: ManagerDependency, run: str, id: str) -> TaskPage:
    """Return a task with its payload and all its attempts."""
    return views.task_page(manager, await require_task(manager, run, id))


@router.get("/tasks/{run}/{id}/explain")
async def explain(manager: ManagerDependency, run: str, id: str) -> Explanation:
    """Explain the status of a task: in a sentence, and for each worker."""
    return views.explanation(manager, await require_task(manager, run, id))


class DeadQuery(PageQuery):
    """A query of dead-lettered tasks; with `all`, also of tasks that failed or timed out."""

    run: str | None = None
    type: str | None = None
    all: bool = False


@router.get("/dead", response_model=Page[DeadTask])
async def dead(manager: ManagerDependency, query: Annotated[DeadQuery, Query()]) -> Response:
    """List dead-lettered tasks with their attempts, in order of submission."""
    task_filter = TaskFilter(
        run=None if query.run is None else (await require_run(manager, query.run)).run,
        type=query.type,
        limit=query.limit + 1,
        cursor=query.after_number,
    )
    rows = await views.dead_tasks(manager, task_filter, include_failed=query.all)
    return await page_response(rows, query.limit, lambda row: row[1], lambda row: str(row[0]))


@router.get("/workers", response_model=Page[WorkerView])
async def workers(manager: ManagerDependency, query: Annotated[PageQuery, Query()]) -> Response:
    """List all workers that ever connected, in order of their names."""
    rows = await views.workers(manager, query.after_text, query.limit + 1)
    return await page_response(rows, query.limit, lambda row: row[1], lambda row: row[0])


_FORM = SubmissionForm.model_json_schema(ref_template="#/components/schemas/{model}")
# `create_app` adds these to components/schemas of OpenAPI.
FORM_SCHEMAS: dict[str, Any] = _FORM.pop("$defs")
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _FORM}}}
}


@router.post("/tasks", status_code=201, openapi_extra=_BODY)
async def submit(manager: ManagerDependency, request: Request) -> Accepted:
    """Submit tasks, accepted or refused as a whole; the same again does no harm."""
    return await submissions.accept(manager, request)
