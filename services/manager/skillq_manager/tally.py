"""What this manager has decided since it started, counted for its metrics."""

from collections import Counter
from dataclasses import dataclass, field

from skillq.messages import TERMINAL, Outcome, TaskStatus
from skillq_manager.core import commands as c


@dataclass(slots=True)
class Tally:
    ended: Counter[TaskStatus] = field(default_factory=Counter)  # tasks
    attempts: Counter[Outcome] = field(default_factory=Counter)
    retries: int = 0  # failed or lost attempts after which the task is tried again
    sent_again: int = 0  # tasks, by an operator
    stale: int = 0
    parked: int = 0

    def count(self, command: c.Command) -> None:
        match command:
            case c.EndAttempt(outcome=outcome, status=status):
                self.attempts[outcome] += 1
                self.retries += status not in TERMINAL and outcome in _TRIED
                self._count_end(status)
            case c.SetStatus(status=status):
                self._count_end(status)
            case c.Reopen():
                self.sent_again += 1
            case c.Stale():
                self.stale += 1
            case _:
                pass

    def _count_end(self, status: TaskStatus) -> None:
        if status in TERMINAL:
            self.ended[status] += 1


_TRIED = {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST}
