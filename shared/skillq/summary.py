"""The last words of a run, as in the tutorial."""

from collections.abc import Sequence
from typing import NamedTuple

from skillq.messages import TaskStatus

_MANY = 1000

_WORDS = {
    TaskStatus.SUCCEEDED: "Success",
    TaskStatus.FAILED: "Failure",
    TaskStatus.TIMED_OUT: "Timed out",
    TaskStatus.CANCELLED: "Cancelled",
    TaskStatus.DEAD_LETTERED: "Given up",
}


class Ended(NamedTuple):
    """How one task ended, and with which worker, as its user wrote it."""

    id: str
    worker: str | None
    status: TaskStatus
    reason: str | None = None


def success_rate(ended: Sequence[Ended]) -> float:
    """In percent, of the tasks that have ended."""
    return 100.0 * sum(e.status is TaskStatus.SUCCEEDED for e in ended) / len(ended)


def summary(ended: Sequence[Ended]) -> list[str]:
    """The lines; of a long run, only those of tasks that did not succeed."""
    shown = list(ended)
    if len(ended) > _MANY:
        shown = [e for e in ended if e.status is not TaskStatus.SUCCEEDED][:_MANY]
    rest = [f"… and {len(ended) - len(shown)} more"] if len(shown) < len(ended) else []
    rate = f"Success rate: {success_rate(ended):.2f}%"
    return ["All tasks completed", *map(_line, shown), *rest, rate]


def _line(ended: Ended) -> str:
    where = f"assigned to {ended.worker}" if ended.worker else "not assigned"
    line = f"Task {ended.id} {where} - {_WORDS[ended.status]}"
    return f"{line} ({ended.reason})" if ended.reason else line
