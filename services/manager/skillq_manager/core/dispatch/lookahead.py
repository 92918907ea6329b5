"""How many attempts a worker may prefetch: enough to hide a round trip, but no more.

Prefetched attempts are limited by their time: by the average recent duration of each task type, over all
workers. See docs/adr/0015-prefetch-by-time-and-recall.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from skillq import timings
from skillq.messages import TaskStatus
from skillq_manager.core.model import TaskEntry, WorkerEntry

_MAX_TYPES = 4096  # with so many task types, all durations are dropped and recorded again


@dataclass(frozen=True, slots=True)
class LookaheadPolicy:
    """The limits of prefetching, times in seconds; `skillq.timings` describes the defaults."""

    max_seconds: float = timings.LOOKAHEAD_SECONDS
    max_prefetched: int = 1000  # attempts beyond the slots of a worker
    min_duration: float = 1e-4  # of an attempt: assigning it takes time, too
    weight: float = 0.1  # of the newest duration in the average
    recall_after: float = timings.RECALL_AFTER_SECONDS


class Lookahead:
    """Tracks the average duration of each task type and the load of each worker."""

    def __init__(self, policy: LookaheadPolicy) -> None:
        self.policy = policy
        self._durations: dict[str, float] = {}  # by task type

    def record_duration(
        self, task_type: str, started_at: float | None, ended_at: float | None
    ) -> bool:
        """Record the duration of an attempt; return whether it is the first one of its task type.

        The times are seconds of the worker's own clock. Without both of them nothing is recorded.
        """
        if started_at is None or ended_at is None or ended_at < started_at:
            return False
        duration = max(self.policy.min_duration, ended_at - started_at)
        average = self._durations.get(task_type)
        if average is not None:
            self._durations[task_type] = average + self.policy.weight * (duration - average)
            return False
        if len(self._durations) >= _MAX_TYPES:
            self._durations.clear()
        self._durations[task_type] = duration
        return True

    def add_attempt(self, worker: WorkerEntry, task: TaskEntry) -> None:
        """Add a task to the attempts of a worker, and its estimated duration to the worker's load."""
        worker.attempts[task.key] = task
        task.is_prefetched = len(worker.attempts) > worker.slots
        task.recalled_at = None
        task.estimate = None if task.losses else self._durations.get(task.need.type)
        self._update_load(worker, task, 1)

    def remove_attempt(self, worker: WorkerEntry, task: TaskEntry) -> None:
        """Remove a task from the attempts of a worker, and its estimate from the worker's load."""
        del worker.attempts[task.key]
        self._update_load(worker, task, -1)
        if not worker.attempts:
            worker.load = 0.0  # sums of many small numbers drift

    def _update_load(self, worker: WorkerEntry, task: TaskEntry, by: int) -> None:
        if task.estimate is None:
            worker.unknown_attempts += by
        elif task.estimate >= self.policy.max_seconds:
            worker.long_attempts += by
        else:
            worker.load += by * task.estimate

    def may_prefetch(self, task: TaskEntry) -> bool:
        """Return whether a worker may prefetch a task.

        The duration of its task type must be known. A task that lost an attempt is not prefetched: it may have
        killed its worker, and may kill another one with all its attempts.
        """
        return not task.losses and task.need.type in self._durations

    def has_prefetch_room(self, worker: WorkerEntry) -> bool:
        """Return whether a worker without a free slot may get another attempt.

        Each long attempt occupies a slot; the other slots must be done with the short ones in `max_seconds`.
        """
        if worker.suspect or worker.draining or worker.recall_pending or worker.unknown_attempts:
            return False
        slots = worker.slots
        if len(worker.attempts) >= slots + self.policy.max_prefetched:
            return False
        return worker.load < (slots - worker.long_attempts) * self.policy.max_seconds


def prefetched_attempts(worker: WorkerEntry) -> Iterator[TaskEntry]:
    """Yield the attempts that wait at a worker for a slot, in the order in which they start."""
    return islice(worker.attempts.values(), worker.slots, None)


def waits_for_slot(task: TaskEntry, worker: WorkerEntry) -> bool:
    """Return whether a prefetched attempt still waits for a slot, as far as is known."""
    if task.status is not TaskStatus.ASSIGNED or not task.is_prefetched:
        return False
    return all(other is not task for other in islice(worker.attempts.values(), worker.slots))
