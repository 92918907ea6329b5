"""The last words of a run, as in the tutorial."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from skillq.messages import TaskStatus

MAX_TASK_LINES = 1000  # tasks; of a longer run, not all have a line

_STATUS_LABELS = {
    TaskStatus.SUCCEEDED: "Success",
    TaskStatus.FAILED: "Failure",
    TaskStatus.TIMED_OUT: "Timed out",
    TaskStatus.CANCELLED: "Cancelled",
    TaskStatus.DEAD_LETTERED: "Given up",
}


class EndedTask(NamedTuple):
    """How one task ended, and with which worker, as its user wrote it."""

    id: str
    worker: str | None
    status: TaskStatus
    reason: str | None = None


def success_rate(counts: Mapping[TaskStatus, int]) -> float:
    """In percent, of the tasks that have ended."""
    ended = sum(n for status, n in counts.items() if status.is_terminal)
    return 100.0 * counts.get(TaskStatus.SUCCEEDED, 0) / ended if ended else 0.0


def summary(
    ended: Sequence[EndedTask], counts: Mapping[TaskStatus, int] | None = None
) -> list[str]:
    """The lines; of a long run, only those of tasks that did not succeed.

    `counts` says how all tasks of the run have ended, where `ended` are not all of them.
    """
    if counts is None:
        counts = Counter(e.status for e in ended)
    shown = list(ended)
    if len(ended) > MAX_TASK_LINES:
        shown = [e for e in ended if e.status is not TaskStatus.SUCCEEDED][:MAX_TASK_LINES]
    more = sum(counts.values()) - len(shown)
    rest = [f"… and {more} more"] if more else []
    return [
        "All tasks completed",
        *map(_task_line, shown),
        *rest,
        f"Success rate: {success_rate(counts):.2f}%",
    ]


def _task_line(ended: EndedTask) -> str:
    where = f"assigned to {ended.worker}" if ended.worker else "not assigned"
    line = f"Task {ended.id} {where} - {_STATUS_LABELS[ended.status]}"
    return f"{line} ({ended.reason})" if ended.reason else line
