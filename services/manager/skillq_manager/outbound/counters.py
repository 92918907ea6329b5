"""Counters of what this manager has decided since it started, for its metrics."""

from collections import Counter
from dataclasses import dataclass, field

from skillq.messages import TERMINAL, Outcome, TaskStatus
from skillq_manager.core import commands as c


@dataclass(slots=True)
class Counters:
    """Numbers since the start of the process; a restart begins again at 0."""

    ended: Counter[TaskStatus] = field(default_factory=Counter)  # tasks, by last status
    attempts: Counter[Outcome] = field(default_factory=Counter)
    retries: int = 0  # failed, timed-out or lost attempts after which the task is ready again
    operator_retries: int = 0  # tasks that an operator has retried
    stale_results: int = 0
    unreadable: int = 0

    def count_decisions(self, decisions: c.Decisions) -> None:
        """Count the commands of one round."""
        ends = decisions.of_kind(c.EndAttempt)
        self.attempts.update(end.outcome for end in ends)
        self.ended.update(end.status for end in ends if end.status in TERMINAL)
        changes = decisions.of_kind(c.SetStatus)
        self.ended.update(change.status for change in changes if change.status in TERMINAL)
        self.retries += sum(
            end.status not in TERMINAL and end.outcome in _RETRIED_OUTCOMES for end in ends
        )
        self.operator_retries += len(decisions.of_kind(c.Reopen))
        self.stale_results += len(decisions.of_kind(c.RecordStaleResult))


_RETRIED_OUTCOMES = {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST}
