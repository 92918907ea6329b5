"""What this manager has decided since it started, counted for its metrics."""

from collections import Counter
from dataclasses import dataclass, field

from skillq.messages import TERMINAL, Outcome, TaskStatus
from skillq_manager.core import commands as c


@dataclass(slots=True)
class Counters:
    ended: Counter[TaskStatus] = field(default_factory=Counter)  # tasks
    attempts: Counter[Outcome] = field(default_factory=Counter)
    retries: int = 0  # failed or lost attempts after which the task is tried again
    operator_retries: int = 0  # tasks, by an operator
    stale: int = 0
    unreadable: int = 0

    def count_decisions(self, decided: c.Decisions) -> None:
        ends = decided.of_kind(c.EndAttempt)
        self.attempts.update(end.outcome for end in ends)
        self.ended.update(end.status for end in ends if end.status in TERMINAL)
        moves = decided.of_kind(c.SetStatus)
        self.ended.update(moved.status for moved in moves if moved.status in TERMINAL)
        self.retries += sum(end.status not in TERMINAL and end.outcome in _TRIED for end in ends)
        self.operator_retries += len(decided.of_kind(c.Reopen))
        self.stale += len(decided.of_kind(c.RecordStaleResult))


_TRIED = {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST}
