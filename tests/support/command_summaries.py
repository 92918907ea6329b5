"""Short summaries of the core's commands, for assertions."""

from skillq.messages import TaskStatus, WorkerEventKind
from skillq_manager.core import commands as c
from tests.support.factories import pick


def worker_events(out: list[c.Command]) -> list[tuple[WorkerEventKind, str]]:
    """Return the event and the reason of each saved worker."""
    return [(save.event, save.reason) for save in pick(out, c.SaveWorker)]


def end_statuses(out: list[c.Command]) -> dict[str, TaskStatus]:
    """Return the status of each task that ended or became ready, and check that each has one."""
    reported = [(x.key[1], x.status) for x in out if isinstance(x, c.SetStatus | c.EndAttempt)]
    assert len(reported) == len(dict(reported))
    return dict(reported)
