"""Keep the row of one task as a store does, and name the statuses that may follow."""

from dataclasses import dataclass
from math import inf

from skillq.messages import TERMINAL, Task, TaskStatus, WorkerProfile
from skillq_manager.core.events import StoredStatus
from skillq_manager.core.model import Need
from skillq_manager.store.base import LiveRow

MAX_LOSSES = 3


@dataclass
class OracleRow:
    task: Task
    fingerprint: int
    status: TaskStatus
    attempt: int = 0
    worker: WorkerProfile | None = None
    retry_at: float = 0.0
    failures: int = 0
    losses: int = 0
    seq: int = 0
    opened_at: float = 0.0
    ready_at: float = 0.0
    need_changed_at: float = 0.0  # by "relax" or "escalate"
    assigned_at: float = 0.0
    need: Need | None = None  # set if it differs from the definition
    has_aged: bool = False  # so reserved workers may take it

    @property
    def current_need(self) -> Need:
        return self.need or Need.from_task(self.task)

    @property
    def stored_status(self) -> StoredStatus:
        return StoredStatus(self.status, self.fingerprint)

    @property
    def deadline(self) -> float:
        return self.opened_at + (self.task.deadline or inf)

    def live_row(self, run: str) -> LiveRow:
        """Return the row that a store loads for the next manager."""
        name, incarnation = worker_id(self.worker) if self.worker else (None, None)
        return LiveRow(
            run=run,
            id=self.task.id,
            seq=self.seq,
            like=self.task,
            fingerprint=self.fingerprint,
            status=self.status,
            submitted_at=self.opened_at,
            attempt=self.attempt,
            failures=self.failures,
            losses=self.losses,
            worker=name,
            incarnation=incarnation,
            assigned_at=self.assigned_at if self.worker else None,
            retry_at=self.retry_at or None,
            need=self.need,
        )

    @property
    def holder(self) -> tuple[int, str, str] | None:
        return (self.attempt, self.worker.name, self.worker.incarnation) if self.worker else None

    def statuses_after_loss(self) -> set[TaskStatus]:
        return {TaskStatus.DEAD_LETTERED if self.losses >= MAX_LOSSES else TaskStatus.READY}

    def statuses_after_failure(self, final_status: TaskStatus, errors: set[str]) -> set[TaskStatus]:
        is_retryable = not self.task.retry_on or errors & {*self.task.retry_on}
        is_retried = self.failures < self.task.max_attempts and is_retryable
        return {TaskStatus.READY if is_retried else final_status}

    def is_refusal_reason(self, reason: str, others: set[TaskStatus], *, just_ended: bool) -> bool:
        """Return whether a retry may be refused for this reason; `others` are the statuses of the dependencies."""
        match reason:
            case "has not ended":
                return self.status not in TERMINAL
            case "has succeeded":
                return self.status is TaskStatus.SUCCEEDED
            case "has ended just now; ask again":
                return just_ended
            case _:
                return bool(others & (TERMINAL - {TaskStatus.SUCCEEDED}))


def worker_id(worker: WorkerProfile) -> tuple[str, str]:
    return worker.name, worker.incarnation
