"""What is to be looked at later: retries, deadlines, attempts that take too long, tasks that nobody can do."""

from collections.abc import Iterator
from enum import Enum, auto
from heapq import heapify, heappop, heappush
from itertools import count

from skillq_manager.core.model import TaskEntry


class TimerKind(Enum):
    RETRY = auto()  # the back-off is over
    DEADLINE = auto()  # the task's time is up
    OVERDUE = auto()  # the attempt's time is up, and its worker has not said so
    UNROUTABLE = auto()  # nobody could do it for a while


_Timer = tuple[float, int, TimerKind, TaskEntry, int]


class Timers:
    """A heap. A timer whose reason is gone is passed over; when most are, they are thrown out together."""

    def __init__(self) -> None:
        self._heap: list[_Timer] = []
        self._order = count()
        self._clean_at = 1024

    def add_timer(self, at: float, kind: TimerKind, task: TaskEntry) -> None:
        if len(self._heap) >= self._clean_at:
            self._heap = [timer for timer in self._heap if _counts(timer)]
            heapify(self._heap)
            self._clean_at = max(1024, 2 * len(self._heap))
        heappush(self._heap, (at, next(self._order), kind, task, _guard(kind, task)))

    def due(self, now: float) -> Iterator[tuple[TimerKind, TaskEntry]]:
        while self._heap and self._heap[0][0] <= now:
            timer = heappop(self._heap)
            if _counts(timer):
                yield timer[2], timer[3]

    def next_at(self) -> float | None:
        while self._heap and not _counts(self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def __iter__(self) -> Iterator[tuple[float, TimerKind, TaskEntry]]:
        """Those that count."""
        return ((t[0], t[2], t[3]) for t in self._heap if _counts(t))


def _guard(kind: TimerKind, task: TaskEntry) -> int:
    """What must still be the same when the timer is due."""
    return task.ticket if kind is TimerKind.UNROUTABLE else task.attempt


def _counts(timer: _Timer) -> bool:
    at, _, kind, task, guard = timer
    match kind:
        case TimerKind.RETRY:
            return task.retry_at == at
        case TimerKind.DEADLINE:
            return not task.status.is_terminal
        case TimerKind.OVERDUE:
            return task.worker is not None and task.attempt == guard
        case _:
            return task.ticket == guard
