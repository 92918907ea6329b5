"""Timers of tasks: retries, deadlines, timeouts of attempts, policies of unroutable tasks."""

from collections.abc import Iterator
from enum import Enum, auto
from heapq import heapify, heappop, heappush
from itertools import count

from skillq_manager.core.model import TaskEntry


class TimerKind(Enum):
    """The kind of work that is due for a task when a timer ends."""

    RETRY = auto()  # the back-off is over
    DEADLINE = auto()  # the deadline of the task is over
    OVERDUE = auto()  # the timeout of the attempt is over, and the worker has not reported an end
    UNROUTABLE = auto()  # a policy for unroutable tasks may apply


_Timer = tuple[float, int, TimerKind, TaskEntry, int]  # the last number is the guard


class Timers:
    """A heap of timers.

    A timer is valid as long as its reason exists. Timers that are not valid any more are skipped,
    and removed together when the heap has doubled.
    """

    def __init__(self) -> None:
        self._heap: list[_Timer] = []
        self._order = count()
        self._clean_at = 1024

    def add_timer(self, at: float, kind: TimerKind, task: TaskEntry) -> None:
        """Add a timer that is due at `at` (seconds on the manager's clock)."""
        if len(self._heap) >= self._clean_at:
            self._heap = [timer for timer in self._heap if _is_valid(timer)]
            heapify(self._heap)
            self._clean_at = max(1024, 2 * len(self._heap))
        heappush(self._heap, (at, next(self._order), kind, task, _guard(kind, task)))

    def due(self, now: float) -> Iterator[tuple[TimerKind, TaskEntry]]:
        """Remove the timers that are due, and yield the valid ones, the earliest first."""
        while self._heap and self._heap[0][0] <= now:
            timer = heappop(self._heap)
            if _is_valid(timer):
                yield timer[2], timer[3]

    def next_at(self) -> float | None:
        """Return the time of the first valid timer, or None if there is no timer."""
        while self._heap and not _is_valid(self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def __iter__(self) -> Iterator[tuple[float, TimerKind, TaskEntry]]:
        """Yield the valid timers, in no order."""
        return ((t[0], t[2], t[3]) for t in self._heap if _is_valid(t))


def _guard(kind: TimerKind, task: TaskEntry) -> int:
    """Return a number of the task that must not change before the timer is due."""
    return task.ticket if kind is TimerKind.UNROUTABLE else task.attempt


def _is_valid(timer: _Timer) -> bool:
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
