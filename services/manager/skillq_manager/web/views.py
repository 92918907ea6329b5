"""The API's views: rows of the store, completed from the newer state of the leader."""

from collections import Counter
from dataclasses import replace

from skillq.messages import TaskStatus, slug
from skillq_manager.core import explain
from skillq_manager.core.model import Need, TaskEntry
from skillq_manager.manager import Manager
from skillq_manager.store.base import RunRow, TaskFilter, TaskRow
from skillq_manager.web.models import (
    LIVE_STATUSES,
    DeadTask,
    Explanation,
    Leadership,
    Runs,
    Slots,
    Summary,
    TaskPage,
    WorkerVerdict,
    WorkerView,
    all_counts,
    live_status,
    success_rate,
)


def wire_name(name_or_title: str) -> str | None:
    """Return the name on the wire for a name or title, or None if it is invalid."""
    try:
        return slug(name_or_title)
    except ValueError:
        return None


async def find_run(manager: Manager, name_or_title: str) -> RunRow | None:
    """Return the run with this name or title, or None if it does not exist."""
    name = wire_name(name_or_title)
    return None if name is None else await manager.store.run(name)


async def find_worker(manager: Manager, name_or_title: str) -> str | None:
    """Return the title of the worker with this name or title, or None if it never connected."""
    name = wire_name(name_or_title)
    rows = await manager.store.workers()
    return next((row.profile.title for row in rows if row.profile.name == name), None)


def current_reason(manager: Manager, row: TaskRow) -> str | None:
    """Return the reason of a task's status."""
    if row.status.is_terminal:
        return row.reason
    if manager.is_leading:
        backlog_reason = (
            explain.reason_in_backlog(manager.state, Need.from_task(row.task))
            if _may_be_in_backlog(row)
            else None
        )
        return manager.reason((row.run, row.task.id)) or backlog_reason or row.reason
    return row.reason or _ON_STANDBY


def task_page(manager: Manager, row: TaskRow) -> TaskPage:
    """Return a task with all its details."""
    return TaskPage.of_live(row, current_reason(manager, row), _live_entry(manager, row))


def explanation(manager: Manager, row: TaskRow) -> Explanation:
    """Explain a task's status; only a leading manager can say it for each worker."""
    page = task_page(manager, row)
    explainable = manager.is_leading and not row.status.is_terminal
    verdicts = _verdicts(manager, row) if explainable else []
    return Explanation(
        run=page.run,
        id=page.id,
        status=page.status,
        reason=page.reason,
        asks=page.asks,
        workers=[WorkerVerdict(worker=worker, verdict=verdict) for worker, verdict in verdicts],
    )


def _verdicts(manager: Manager, row: TaskRow) -> list[tuple[str, str]]:
    if _live_entry(manager, row) is None and _may_be_in_backlog(row):
        return explain.verdicts_in_backlog(manager.state, Need.from_task(row.task))
    return explain.verdicts(manager.state, (row.run, row.task.id))


def _may_be_in_backlog(row: TaskRow) -> bool:
    return row.status is TaskStatus.READY and not row.attempt


def _live_entry(manager: Manager, row: TaskRow) -> TaskEntry | None:
    """Return the leader's entry of the task, or None if the task is not in its memory."""
    key = (row.run, row.task.id)
    return manager.state.tasks.live.get(key) if manager.is_leading else None


_ON_STANDBY = "this manager stands by; the one that leads knows why"
_GIVEN_UP = (TaskStatus.DEAD_LETTERED, TaskStatus.FAILED, TaskStatus.TIMED_OUT)


async def dead_tasks(
    manager: Manager, task_filter: TaskFilter, *, include_failed: bool
) -> list[tuple[int, DeadTask]]:
    """Return dead-lettered tasks with their `seq`, in order of submission.

    With `include_failed` the result also has tasks that failed or timed out.
    """
    rows: list[TaskRow] = []
    for status in _GIVEN_UP if include_failed else _GIVEN_UP[:1]:
        rows += await manager.store.tasks(replace(task_filter, status=status))
    found: list[tuple[int, DeadTask]] = []
    for row in sorted(rows, key=lambda row: row.seq)[: task_filter.limit]:
        full = await manager.store.task((row.run, row.task.id)) or row
        found.append((row.seq, DeadTask.from_row(full, full.reason)))
    return found


async def workers(manager: Manager, after: str, limit: int) -> list[tuple[str, WorkerView]]:
    """Return name and view of all workers with names after `after`, in order."""
    stored = {row.profile.name: row for row in await manager.store.workers()}
    live = manager.state.workers.workers if manager.is_leading else {}
    of_row = WorkerView.of_departed if manager.is_leading else WorkerView.of_row
    names = sorted(name for name in stored.keys() | live.keys() if name > after)
    return [
        (
            name,
            WorkerView.of_live(live[name]) if name in live else of_row(stored[name]),
        )
        for name in names[:limit]
    ]


async def summary(manager: Manager) -> Summary:
    """Return a summary of all runs, workers and the manager."""
    runs = await manager.store.runs()
    counts = all_counts(sum((Counter(run.counts) for run in runs), Counter()))
    unfinished = sum(run.finished_at is None for run in runs)
    statuses, slots = (
        _worker_counts(manager) if manager.is_leading else await _worker_counts_from_store(manager)
    )
    return Summary(
        tasks=counts,
        total=sum(counts.values()),
        success_rate=success_rate(counts),
        workers={status: statuses[status] for status in LIVE_STATUSES},
        slots=slots,
        runs=Runs(open=unfinished, ended=len(runs) - unfinished),
        manager=Leadership(
            leading=manager.is_leading, blind=manager.heartbeats_lost, store=manager.store.id
        ),
    )


def _worker_counts(manager: Manager) -> tuple[Counter[str], Slots]:
    live = manager.state.workers.workers.values()
    return Counter(map(live_status, live)), Slots(
        total=sum(worker.slots for worker in live),
        busy=sum(min(len(worker.attempts), worker.slots) for worker in live),
        free=sum(worker.slots - len(worker.attempts) for worker in live if worker.is_free),
    )


async def _worker_counts_from_store(manager: Manager) -> tuple[Counter[str], Slots]:
    """Return worker counts from the store; only the leader knows how many slots are busy."""
    live = [row for row in await manager.store.workers() if row.status in LIVE_STATUSES]
    total = sum(row.profile.slots for row in live)
    return Counter(str(row.status) for row in live), Slots(total=total, busy=0, free=0)
