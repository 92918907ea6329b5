"""Look-up of the run, task or worker that a request names."""

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from skillq_manager.manager import Manager
from skillq_manager.store.base import RunRow, TaskRow
from skillq_manager.web import views


async def _manager(request: Request) -> Manager:
    manager: Manager = request.app.state.manager
    return manager


ManagerDependency = Annotated[Manager, Depends(_manager)]


async def require_run(manager: Manager, name_or_title: str) -> RunRow:
    """Return the run with this name or title.

    Raises:
        HTTPException: 404, the run does not exist.
    """
    found = await views.find_run(manager, name_or_title)
    if found is None:
        raise HTTPException(404, f"there is no run {name_or_title!r}")
    return found


async def require_task(manager: Manager, run_name_or_title: str, id: str) -> TaskRow:
    """Return the task with this id in a run.

    Raises:
        HTTPException: 404, the run or the task does not exist.
    """
    run = await require_run(manager, run_name_or_title)
    row = await manager.store.task((run.run, id))
    if row is None:
        raise HTTPException(404, f"there is no task {id!r} in run {run.title!r}")
    return row


async def require_worker(manager: Manager, name_or_title: str) -> str:
    """Return the title of the worker with this name or title.

    Raises:
        HTTPException: 404, such a worker never connected.
    """
    title = await views.find_worker(manager, name_or_title)
    if title is None:
        raise HTTPException(404, f"there was never a worker {name_or_title!r}")
    return title
