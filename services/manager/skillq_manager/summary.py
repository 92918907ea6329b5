"""The ended tasks of a run, out of the store."""

from skillq.summary import Ended
from skillq_manager.store.base import Filter, Views

_PAGE = 1000


async def ended_tasks(store: Views, run: str) -> list[Ended]:
    """All tasks of a run that have ended, in order of submission."""
    ended: list[Ended] = []
    which = Filter(run=run, limit=_PAGE)
    while rows := await store.tasks(which):
        ended += [
            Ended(row.task.id, row.worker, row.status, row.reason)
            for row in rows
            if row.status.is_terminal
        ]
        which = Filter(run=run, limit=_PAGE, cursor=rows[-1].seq)
    return ended
