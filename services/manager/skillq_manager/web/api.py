"""The routes under /api."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from skillq.forms import SubmissionForm
from skillq.messages import TaskStatus
from skillq_manager.store.base import Filter
from skillq_manager.web import submissions, views
from skillq_manager.web.lookup import TheManager, run_of, task_of, worker_of
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
from skillq_manager.web.paging import PageQuery, page

router = APIRouter(prefix="/api", responses={"default": {"model": Problem}})


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
        numbered, query.limit, lambda row: RunView.from_run(row[1]), lambda row: str(row[0])
    )


@router.get("/runs/{run}")
async def run(manager: TheManager, run: str) -> RunView:
    return RunView.from_run(await run_of(manager, run))


@router.get("/tasks", response_model=Page[TaskView])
async def tasks(manager: TheManager, query: Annotated[TaskQuery, Query()]) -> Response:
    """In order of submission."""
    which = Filter(
        run=None if query.run is None else (await run_of(manager, query.run)).run,
        status=query.status,
        type=query.type,
        worker=None if query.worker is None else await worker_of(manager, query.worker),
        limit=query.limit + 1,
        cursor=query.after_number,
    )
    rows = await manager.store.tasks(which)
    return await page(
        rows,
        query.limit,
        lambda row: TaskView.from_task(row, views.why(manager, row)),
        lambda row: str(row.seq),
    )


@router.get("/tasks/{run}/{id}")
async def task(manager: TheManager, run: str, id: str) -> TaskPage:
    return views.task_page(manager, await task_of(manager, run, id))


@router.get("/tasks/{run}/{id}/explain")
async def explain(manager: TheManager, run: str, id: str) -> Explanation:
    """Why a task is where it is: in a sentence, and worker by worker."""
    return views.explanation(manager, await task_of(manager, run, id))


class DeadQuery(PageQuery):
    """Tasks that were given up on; `all`: those that failed or timed out, too."""

    run: str | None = None
    type: str | None = None
    all: bool = False


@router.get("/dead", response_model=Page[DeadTask])
async def dead(manager: TheManager, query: Annotated[DeadQuery, Query()]) -> Response:
    """In order of submission, with their attempts."""
    which = Filter(
        run=None if query.run is None else (await run_of(manager, query.run)).run,
        type=query.type,
        limit=query.limit + 1,
        cursor=query.after_number,
    )
    rows = await views.dead(manager, which, whole=query.all)
    return await page(rows, query.limit, lambda row: row[1], lambda row: str(row[0]))


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
