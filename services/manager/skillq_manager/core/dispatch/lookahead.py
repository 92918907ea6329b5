"""How much work a worker may have waiting: enough to hide the round trip, so little that nobody misses it.

What is given ahead is bounded by time: by how long tasks of these types have taken lately, all workers together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from skillq import timings
from skillq.messages import TaskStatus
from skillq_manager.core.model import TaskEntry, WorkerEntry

_MANY_TYPES = 4096  # from here on, durations are learned anew


@dataclass(frozen=True, slots=True)
class LookaheadPolicy:
    """Times in seconds; `skillq.timings` says what those are that stand there."""

    horizon: float = timings.LOOKAHEAD_SECONDS
    most: int = 1000  # attempts ahead of the slots, however short they are
    shortest: float = 1e-4  # no task is taken to be shorter: there is more to one than its work
    weight: float = 0.1  # of the newest duration, in the average
    recall_after: float = timings.RECALL_AFTER_SECONDS


class Lookahead:
    """Keeps for each worker how much it has to do, as far as it is known."""

    def __init__(self, policy: LookaheadPolicy) -> None:
        self.policy = policy
        self._durations: dict[str, float] = {}  # by task type

    def learn(self, task_type: str, began_at: float | None, ended_at: float | None) -> bool:
        """An attempt took so long, by its worker's own clock. Whether that is the first one of its type."""
        if began_at is None or ended_at is None or ended_at < began_at:
            return False
        took = max(self.policy.shortest, ended_at - began_at)
        before = self._durations.get(task_type)
        if before is not None:
            self._durations[task_type] = before + self.policy.weight * (took - before)
            return False
        if len(self._durations) >= _MANY_TYPES:
            self._durations.clear()
        self._durations[task_type] = took
        return True

    def add_attempt(self, worker: WorkerEntry, task: TaskEntry) -> None:
        """The worker has this task from now on."""
        worker.attempts[task.key] = task
        task.is_prefetched = len(worker.attempts) > worker.slots
        task.recalled_at = None
        task.estimate = None if task.losses else self._durations.get(task.need.type)
        self._count(worker, task, 1)

    def remove_attempt(self, worker: WorkerEntry, task: TaskEntry) -> None:
        """The worker has it no more."""
        del worker.attempts[task.key]
        self._count(worker, task, -1)
        if not worker.attempts:
            worker.load = 0.0  # sums of many small numbers drift

    def _count(self, worker: WorkerEntry, task: TaskEntry, by: int) -> None:
        if task.estimate is None:
            worker.unknown_attempts += by
        elif task.estimate >= self.policy.horizon:
            worker.long_attempts += by
        else:
            worker.load += by * task.estimate

    def may_go_ahead(self, task: TaskEntry) -> bool:
        """Whether it may wait at a worker; what was lost with one may kill another, and waits for its slot."""
        return not task.losses and task.need.type in self._durations

    def has_room(self, worker: WorkerEntry) -> bool:
        """Whether a worker without a free slot may be given something ahead.

        Long tasks take a slot each; what the others have to do must be short.
        """
        if worker.suspect or worker.draining or worker.recall_pending or worker.unknown_attempts:
            return False
        slots = worker.slots
        if len(worker.attempts) >= slots + self.policy.most:
            return False
        return worker.load < (slots - worker.long_attempts) * self.policy.horizon


def waiting(worker: WorkerEntry) -> Iterator[TaskEntry]:
    """The attempts that wait at a worker, the oldest first: it begins them in the order in which it got them."""
    return islice(worker.attempts.values(), worker.slots, None)


def is_waiting(task: TaskEntry, worker: WorkerEntry) -> bool:
    """Whether others that the worker has are before it, as far as is known."""
    if task.status is not TaskStatus.ASSIGNED or not task.is_prefetched:
        return False
    return all(other is not task for other in islice(worker.attempts.values(), worker.slots))
