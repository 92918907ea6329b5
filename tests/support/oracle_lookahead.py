"""Check independently which attempts may be prefetched, and which may be recalled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from skillq.messages import Outcome, TaskResult, TaskStatus, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey
from tests.support.oracle_rows import OracleRow, worker_id
from tests.support.oracle_workers import WorkersOracle

MAX_SECONDS = 0.1  # of prefetched work for each slot
MAX_PREFETCHED = 1000


@dataclass
class LookaheadOracle:
    shortest_by_type: dict[str, float] = field(
        default_factory=dict
    )  # the shortest duration in seconds, by task type

    def record_duration(self, row: OracleRow, result: TaskResult) -> None:
        if result.outcome in {Outcome.SUCCEEDED, Outcome.FAILED} and result.started_at is not None:
            seconds = (result.finished_at or 0.0) - result.started_at
            self.shortest_by_type[row.current_need.type] = min(
                seconds, self.shortest_by_type.get(row.current_need.type, inf)
            )

    def check_attempts(
        self, worker: WorkerProfile, held: Sequence[OracleRow], *, by_skill: bool
    ) -> None:
        """Check that a worker with more attempts than slots has only tasks of known duration and without losses."""
        if len(held) <= worker.slots:
            return
        assert by_skill
        assert len(held) <= worker.slots + MAX_PREFETCHED
        assert all(
            row.current_need.type in self.shortest_by_type and not row.losses for row in held
        )
        short = [row for row in held if self.shortest_by_type[row.current_need.type] < MAX_SECONDS]
        assert short or len(held) <= worker.slots + 1

    def check_recall(
        self, command: c.RecallAttempts, rows: Mapping[TaskKey, OracleRow], crew: WorkersOracle
    ) -> None:
        """Check that only prefetched attempts are recalled, each for another worker with a free slot."""
        worker = command.worker
        assert len(command.attempts) <= len(keys_held_by(worker, rows)) - worker.slots
        for ref in command.attempts:
            row = rows[ref.run, ref.id]
            assert row.holder == (ref.attempt, *worker_id(worker))
            assert row.status is TaskStatus.ASSIGNED
            idle = [
                w
                for w in crew.able_workers(row.current_need)
                if len(keys_held_by(w, rows)) < w.slots
            ]
            assert any(w.name != worker.name for w in idle)


def keys_held_by(worker: WorkerProfile, rows: Mapping[TaskKey, OracleRow]) -> list[TaskKey]:
    return [
        key
        for key, row in rows.items()
        if row.worker and worker_id(row.worker) == worker_id(worker)
    ]
