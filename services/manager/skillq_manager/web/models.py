"""What the API answers. Times are UTC, ISO 8601."""

from datetime import UTC, datetime
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, JsonValue

from skillq.messages import Outcome, TaskStatus, WorkerEventKind
from skillq_manager.core.model import WorkerEntry
from skillq_manager.store.base import AttemptRow, RunRow, TaskRow, WorkerRow

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """A list answers this; `next_cursor` is null on the last page."""

    items: list[Item]
    next_cursor: str | None


class Problem(BaseModel):
    error: str


class Accepted(BaseModel):
    """A submission was taken in; `known` tasks had been submitted before, the same."""

    run: str
    accepted: int
    known: int


class TaskView(BaseModel):
    run: str
    id: str
    description: str
    type: str
    difficulty: int
    priority: int
    status: TaskStatus
    reason: str | None
    worker: str | None
    attempt: int
    submitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    output: JsonValue
    error: str | None

    @classmethod
    def of(cls, row: TaskRow, reason: str | None) -> Self:
        task = row.task
        return cls(
            run=row.run,
            id=task.id,
            description=task.description,
            type=task.type,
            difficulty=task.difficulty,
            priority=task.priority,
            status=row.status,
            reason=reason,
            worker=row.worker,
            attempt=row.attempt,
            submitted_at=_time(row.submitted_at),
            started_at=_time(row.started_at),
            finished_at=_time(row.finished_at),
            output=row.output,
            error=row.error,
        )


class AttemptView(BaseModel):
    """`counted` is false for a report that came late or from elsewhere: it changed nothing."""

    attempt: int
    worker: str
    incarnation: str
    assigned_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    outcome: Outcome | None
    error: str | None
    counted: bool

    @classmethod
    def of(cls, row: AttemptRow) -> Self:
        return cls(
            attempt=row.attempt,
            worker=row.worker,
            incarnation=row.incarnation,
            assigned_at=_time(row.assigned_at or None),
            started_at=_time(row.started_at),
            finished_at=_time(row.finished_at),
            outcome=row.outcome,
            error=row.error,
            counted=row.counted,
        )


class TaskPage(TaskView):
    """A task on its own page."""

    requires: list[str]
    depends_on: list[str]
    payload: dict[str, JsonValue]
    timeout: float | None
    max_attempts: int
    attempts: list[AttemptView]

    @classmethod
    def of(cls, row: TaskRow, reason: str | None) -> Self:
        task = row.task
        return cls(
            **dict(TaskView.of(row, reason)),
            requires=list(task.requires),
            depends_on=list(task.depends_on),
            payload=task.payload,
            timeout=task.timeout,
            max_attempts=task.max_attempts,
            attempts=[AttemptView.of(attempt) for attempt in row.attempts],
        )


class RunView(BaseModel):
    """`success_rate` is in percent of the tasks that have ended, null while none has."""

    run: str
    title: str
    tasks: int
    ended: int
    counts: dict[TaskStatus, int]
    success_rate: float | None
    submitted_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: RunRow) -> Self:
        counts = all_counts(row.counts)
        return cls(
            run=row.run,
            title=row.title,
            tasks=row.total,
            ended=row.ended,
            counts=counts,
            success_rate=success_rate(counts),
            submitted_at=_time(row.submitted_at),
            finished_at=_time(row.finished_at),
        )


class WorkerView(BaseModel):
    """`status` is connected, suspect or draining of a worker that is there, else disconnected or lost."""

    name: str
    incarnation: str
    skill: int
    specialties: list[str]
    slots: int
    running: int
    status: str
    last_seen: datetime | None
    types: list[str] | None

    @classmethod
    def of_live(cls, entry: WorkerEntry) -> Self:
        row = WorkerRow(entry.profile, WorkerEventKind.CONNECTED, "", entry.last_seen)
        view = cls.of_row(row)
        view.running = len(entry.holds)
        view.status = live_status(entry)
        return view

    @classmethod
    def of_departed(cls, row: WorkerRow) -> Self:
        view = cls.of_row(row)
        # The row of a worker that this manager has not heard of since it started says `connected`.
        if row.status is not WorkerEventKind.DISCONNECTED:
            view.status = WorkerEventKind.LOST
        return view

    @classmethod
    def of_row(cls, row: WorkerRow) -> Self:
        profile = row.profile
        return cls(
            name=profile.title,
            incarnation=profile.incarnation,
            skill=profile.skill,
            specialties=list(profile.specialties),
            slots=profile.slots,
            running=0,
            status=row.status,
            last_seen=_time(row.since),
            types=None if profile.types is None else list(profile.types),
        )


class Slots(BaseModel):
    """`free` ones can be given a task now; those of suspect and draining workers cannot."""

    total: int
    busy: int
    free: int


class Runs(BaseModel):
    open: int
    ended: int


class Summary(BaseModel):
    """All runs together; `workers` by status, those that are there."""

    tasks: dict[TaskStatus, int]
    total: int
    success_rate: float | None
    workers: dict[str, int]
    slots: Slots
    runs: Runs


LIVE_STATUSES = ("connected", "suspect", "draining")


def live_status(entry: WorkerEntry) -> str:
    if entry.suspect:
        return "suspect"
    return "draining" if entry.draining else "connected"


def all_counts(counts: dict[TaskStatus, int]) -> dict[TaskStatus, int]:
    """With the zeros, in the order of a task's life."""
    return {status: counts.get(status, 0) for status in TaskStatus}


def success_rate(counts: dict[TaskStatus, int]) -> float | None:
    ended = sum(n for status, n in counts.items() if status.is_terminal)
    return 100.0 * counts[TaskStatus.SUCCEEDED] / ended if ended else None


def _time(seconds: float | None) -> datetime | None:
    """None also for what a worker's broken clock said: it must not cost the whole page."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
