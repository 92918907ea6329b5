"""What may wait at a worker, as an independent bookkeeper knows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from skillq.messages import Outcome, TaskResult, TaskStatus, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey
from tests.support.oracle_rows import Row, who
from tests.support.oracle_workers import Crew

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

    def recall(self, command: c.RecallAttempts, rows: Mapping[TaskKey, Row], crew: Crew) -> None:
        """Of a worker that has more than slots, for others that could begin at once."""
        worker = command.worker
        assert len(command.attempts) <= len(held_by(worker, rows)) - worker.slots
        for ref in command.attempts:
            row = rows[ref.run, ref.id]
            assert row.holder == (ref.attempt, *who(worker))
            assert row.status is TaskStatus.ASSIGNED
            idle = [w for w in crew.able(row.asks) if len(held_by(w, rows)) < w.slots]
            assert any(w.name != worker.name for w in idle)


def held_by(worker: WorkerProfile, rows: Mapping[TaskKey, Row]) -> list[TaskKey]:
    return [key for key, row in rows.items() if row.worker and who(row.worker) == who(worker)]
