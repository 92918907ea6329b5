"""What the manager knows, as the API shows it: the store's rows, and the state where it is fresher."""

from collections import Counter
from dataclasses import replace

from skillq.messages import TaskStatus, slug
from skillq_manager.core import explain
from skillq_manager.core.model import Need, TaskEntry
from skillq_manager.manager import Manager
from skillq_manager.store.base import Filter, RunRow, TaskRow
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


def name_of(written: str) -> str | None:
    """The name on the wire, or None: nothing can be called that."""
    try:
        return slug(written)
    except ValueError:
        return None


async def find_run(manager: Manager, written: str) -> RunRow | None:
    name = name_of(written)
    return None if name is None else await manager.store.run(name)


async def find_worker(manager: Manager, written: str) -> str | None:
    """A worker's title by its name or title."""
    name = name_of(written)
    rows = await manager.store.workers()
    return next((row.profile.title for row in rows if row.profile.name == name), None)


def why(manager: Manager, row: TaskRow) -> str | None:
    """Why a task is where it is."""
    if row.status.is_terminal:
        return row.reason
    if manager.is_leading:
        on_shelf = (
            explain.reason_in_backlog(manager.state, Need.from_task(row.task))
            if _may_be_shelved(row)
            else None
        )
        return manager.reason((row.run, row.task.id)) or on_shelf or row.reason
    return row.reason or _STANDS_BY


def task_page(manager: Manager, row: TaskRow) -> TaskPage:
    return TaskPage.of_live(row, why(manager, row), _entry(manager, row))


def explanation(manager: Manager, row: TaskRow) -> Explanation:
    page = task_page(manager, row)
    leads = manager.is_leading and not row.status.is_terminal
    verdicts = _verdicts(manager, row) if leads else []
    return Explanation(
        run=page.run,
        id=page.id,
        status=page.status,
        reason=page.reason,
        asks=page.asks,
        workers=[WorkerVerdict(worker=worker, verdict=verdict) for worker, verdict in verdicts],
    )


def _verdicts(manager: Manager, row: TaskRow) -> list[tuple[str, str]]:
    if _entry(manager, row) is None and _may_be_shelved(row):
        return explain.verdicts_in_backlog(manager.state, Need.from_task(row.task))
    return explain.verdicts(manager.state, (row.run, row.task.id))


def _may_be_shelved(row: TaskRow) -> bool:
    return row.status is TaskStatus.READY and not row.attempt


def _entry(manager: Manager, row: TaskRow) -> TaskEntry | None:
    """The task in the state, which knows it only while it leads and the task has not ended."""
    key = (row.run, row.task.id)
    return manager.state.tasks.live.get(key) if manager.is_leading else None


_STANDS_BY = "this manager stands by; the one that leads knows why"
_GIVEN_UP = (TaskStatus.DEAD_LETTERED, TaskStatus.FAILED, TaskStatus.TIMED_OUT)


async def dead(manager: Manager, which: Filter, *, whole: bool) -> list[tuple[int, DeadTask]]:
    """Tasks that were given up on, and (`whole`) those that failed or timed out, with their place in the order."""
    rows: list[TaskRow] = []
    for status in _GIVEN_UP if whole else _GIVEN_UP[:1]:
        rows += await manager.store.tasks(replace(which, status=status))
    found: list[tuple[int, DeadTask]] = []
    for row in sorted(rows, key=lambda row: row.seq)[: which.limit]:
        full = await manager.store.task((row.run, row.task.id)) or row
        found.append((row.seq, DeadTask.from_task(full, full.reason)))
    return found


async def workers(manager: Manager, after: str, limit: int) -> list[tuple[str, WorkerView]]:
    """Workers ever seen, in order of their names; one that is there as it is now."""
    departed = {row.profile.name: row for row in await manager.store.workers()}
    live = manager.state.workers.workers if manager.is_leading else {}
    of_row = WorkerView.of_departed if manager.is_leading else WorkerView.of_row
    names = sorted(name for name in departed.keys() | live.keys() if name > after)
    return [
        (
            name,
            WorkerView.of_live(live[name]) if name in live else of_row(departed[name]),
        )
        for name in names[:limit]
    ]


async def summary(manager: Manager) -> Summary:
    runs = await manager.store.runs()
    counts = all_counts(sum((Counter(run.counts) for run in runs), Counter()))
    unfinished = sum(run.finished_at is None for run in runs)
    statuses, slots = _fleet(manager) if manager.is_leading else await _fleet_of_another(manager)
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


def _fleet(manager: Manager) -> tuple[Counter[str], Slots]:
    live = manager.state.workers.workers.values()
    return Counter(map(live_status, live)), Slots(
        total=sum(worker.slots for worker in live),
        busy=sum(min(len(worker.attempts), worker.slots) for worker in live),
        free=sum(worker.slots - len(worker.attempts) for worker in live if worker.is_free),
    )


async def _fleet_of_another(manager: Manager) -> tuple[Counter[str], Slots]:
    """As the manager that leads has written it down: what workers hold just now only that one knows."""
    there = [row for row in await manager.store.workers() if row.status in LIVE_STATUSES]
    total = sum(row.profile.slots for row in there)
    return Counter(str(row.status) for row in there), Slots(total=total, busy=0, free=0)
