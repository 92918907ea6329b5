"""What a request names, found or refused."""

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from skillq_manager.manager import Manager
from skillq_manager.store.base import RunRow, TaskRow
from skillq_manager.web import views


async def _manager(request: Request) -> Manager:
    manager: Manager = request.app.state.manager
    return manager


TheManager = Annotated[Manager, Depends(_manager)]


async def run_of(manager: Manager, written: str) -> RunRow:
    found = await views.find_run(manager, written)
    if found is None:
        raise HTTPException(404, f"there is no run {written!r}")
    return found


async def task_of(manager: Manager, written: str, id: str) -> TaskRow:
    run = await run_of(manager, written)
    row = await manager.store.task((run.run, id))
    if row is None:
        raise HTTPException(404, f"there is no task {id!r} in run {run.title!r}")
    return row


async def worker_of(manager: Manager, written: str) -> str:
    title = await views.find_worker(manager, written)
    if title is None:
        raise HTTPException(404, f"there was never a worker {written!r}")
    return title
