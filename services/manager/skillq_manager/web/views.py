"""What the manager knows, as the API shows it: the store's rows, and the state where it is fresher."""

from collections import Counter

from skillq.messages import slug
from skillq_manager.manager import Manager
from skillq_manager.store.base import RunRow, TaskRow
from skillq_manager.web.models import (
    LIVE_STATUSES,
    Runs,
    Slots,
    Summary,
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
    return row.reason if row.status.is_terminal else manager.reason((row.run, row.task.id))


async def workers(manager: Manager, after: str, limit: int) -> list[tuple[str, WorkerView]]:
    """Workers ever seen, in order of their names; one that is there as it is now."""
    departed = {row.profile.name: row for row in await manager.store.workers()}
    live = manager.state.fleet.workers
    names = sorted(name for name in departed.keys() | live.keys() if name > after)
    return [
        (
            name,
            WorkerView.of_live(live[name])
            if name in live
            else WorkerView.of_departed(departed[name]),
        )
        for name in names[:limit]
    ]


async def summary(manager: Manager) -> Summary:
    runs = await manager.store.runs()
    live = manager.state.fleet.workers.values()
    counts = all_counts(sum((Counter(run.counts) for run in runs), Counter()))
    statuses = Counter(map(live_status, live))
    unfinished = sum(run.finished_at is None for run in runs)
    return Summary(
        tasks=counts,
        total=sum(counts.values()),
        success_rate=success_rate(counts),
        workers={status: statuses[status] for status in LIVE_STATUSES},
        slots=Slots(
            total=sum(worker.profile.slots for worker in live),
            busy=sum(min(len(worker.holds), worker.profile.slots) for worker in live),
            free=sum(worker.profile.slots - len(worker.holds) for worker in live if worker.is_free),
        ),
        runs=Runs(open=unfinished, ended=len(runs) - unfinished),
    )
