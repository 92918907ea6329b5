"""The summary of a run: lines that are printed when all tasks of the run have ended."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from skillq.messages import TaskStatus

MAX_TASK_LINES = 1000  # the summary of a longer run has no line for tasks that succeeded

_STATUS_LABELS = {
    TaskStatus.SUCCEEDED: "Success",
    TaskStatus.FAILED: "Failure",
    TaskStatus.TIMED_OUT: "Timed out",
    TaskStatus.CANCELLED: "Cancelled",
    TaskStatus.DEAD_LETTERED: "Given up",
}


class EndedTask(NamedTuple):
    """How one task ended. `worker` is the title of its worker, or None if it was not assigned."""

    id: str
    worker: str | None
    status: TaskStatus
    reason: str | None = None


def success_rate(counts: Mapping[TaskStatus, int]) -> float:
    """Return how many percent of the ended tasks succeeded; 0 if none has ended."""
    ended = sum(n for status, n in counts.items() if status.is_terminal)
    return 100.0 * counts.get(TaskStatus.SUCCEEDED, 0) / ended if ended else 0.0


def summary(
    ended: Sequence[EndedTask], counts: Mapping[TaskStatus, int] | None = None
) -> list[str]:
    """Return the summary's lines; those of a long run name only tasks that did not succeed.

    `counts` has the number of ended tasks by status, for a run of which `ended` holds only some tasks.
    """
    if counts is None:
        counts = Counter(task.status for task in ended)
    shown = list(ended)
    if len(ended) > MAX_TASK_LINES:
        shown = [task for task in ended if task.status is not TaskStatus.SUCCEEDED][:MAX_TASK_LINES]
    not_shown = sum(counts.values()) - len(shown)
    more_line = [f"… and {not_shown} more"] if not_shown else []
    return [
        "All tasks completed",
        *map(_task_line, shown),
        *more_line,
        f"Success rate: {success_rate(counts):.2f}%",
    ]


def _task_line(ended: EndedTask) -> str:
    assigned = f"assigned to {ended.worker}" if ended.worker else "not assigned"
    line = f"Task {ended.id} {assigned} - {_STATUS_LABELS[ended.status]}"
    return f"{line} ({ended.reason})" if ended.reason else line
