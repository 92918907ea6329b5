"""What may wait at a worker, as an independent bookkeeper knows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from skillq.messages import Outcome, TaskResult, WorkerProfile
from tests.unit.core.rows import Row

HORIZON = 0.1  # seconds of work for each slot
MOST = 1000


@dataclass
class Ahead:
    lasted: dict[str, float] = field(default_factory=dict)  # seconds, by type, the shortest

    def learn(self, row: Row, result: TaskResult) -> None:
        if result.outcome in {Outcome.SUCCEEDED, Outcome.FAILED} and result.started_at is not None:
            took = (result.finished_at or 0.0) - result.started_at
            self.lasted[row.asks.type] = min(took, self.lasted.get(row.asks.type, inf))

    def check(self, worker: WorkerProfile, held: Sequence[Row], *, by_skill: bool) -> None:
        """What a worker has beyond its slots is easy on it: all is known, and nothing was lost before."""
        if len(held) <= worker.slots:
            return
        assert by_skill
        assert len(held) <= worker.slots + MOST
        assert all(row.asks.type in self.lasted and not row.losses for row in held)
        short = [row for row in held if self.lasted[row.asks.type] < HORIZON]
        assert short or len(held) <= worker.slots + 1
