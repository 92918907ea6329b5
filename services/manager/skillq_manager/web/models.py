"""The models of the API's answers. Times are UTC, ISO 8601."""

from collections import Counter
from datetime import UTC, datetime
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, JsonValue

from skillq.messages import Outcome, TaskStatus, WorkerEventKind
from skillq_manager.core.model import Need, TaskEntry, WorkerEntry
from skillq_manager.store.base import AttemptRow, RunRow, TaskRow, WorkerRow

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last page."""

    items: list[Item]
    next_cursor: str | None


class Problem(BaseModel):
    """The answer to a request that failed: one line of text."""

    error: str


class Accepted(BaseModel):
    """A submission was accepted. `known` is the number of tasks that were already stored."""

    run: str
    accepted: int
    known: int


class TaskView(BaseModel):
    """A task in a list."""

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
    def from_row(cls, row: TaskRow, reason: str | None) -> Self:
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
            submitted_at=utc(row.submitted_at),
            started_at=utc(row.started_at),
            finished_at=utc(row.finished_at),
            output=row.output,
            error=row.error,
        )


class AttemptView(BaseModel):
    """An attempt. `counted` is false for a stale result, which changed nothing."""

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
    def from_attempt(cls, row: AttemptRow) -> Self:
        return cls(
            attempt=row.attempt,
            worker=row.worker,
            incarnation=row.incarnation,
            assigned_at=utc(row.assigned_at or None),
            started_at=utc(row.started_at),
            finished_at=utc(row.finished_at),
            outcome=row.outcome,
            error=row.error,
            counted=row.counted,
        )


class Asks(BaseModel):
    """The present need of a task, if it differs from its definition, and the reason."""

    difficulty: int
    requires: list[str]
    excluded: list[str]
    because: str | None

    @classmethod
    def from_need(cls, need: Need, because: str | None) -> Self:
        return cls(
            difficulty=need.difficulty,
            requires=sorted(need.requires),
            excluded=sorted(need.excluded),
            because=because,
        )


class TaskPage(TaskView):
    """A task in detail. `max_attempts` limits `failures`; `losses` has its own limit."""

    requires: list[str]
    depends_on: list[str]
    payload: dict[str, JsonValue]
    timeout: float | None
    deadline: float | None
    max_attempts: int
    failures: int
    losses: int
    asks: Asks | None
    attempts: list[AttemptView]

    @classmethod
    def of_live(cls, row: TaskRow, reason: str | None, entry: TaskEntry | None) -> Self:
        """Make the page from the row; `entry` has newer values if the task has not ended."""
        page = cls.from_row(row, reason)
        if entry is not None:
            page.failures, page.losses = entry.failures, entry.losses
            if entry.need._replace(aged=False) != Need.from_task(row.task):
                page.asks = Asks.from_need(entry.need, row.reason)
        return page

    @classmethod
    def from_row(cls, row: TaskRow, reason: str | None) -> Self:
        task = row.task
        outcomes = Counter(attempt.outcome for attempt in row.attempts if attempt.counted)
        return cls(
            **dict(TaskView.from_row(row, reason)),
            requires=list(task.requires),
            depends_on=list(task.depends_on),
            payload=task.payload,
            timeout=task.timeout,
            deadline=task.deadline,
            max_attempts=task.max_attempts,
            failures=outcomes[Outcome.FAILED] + outcomes[Outcome.TIMED_OUT],
            losses=outcomes[Outcome.LOST],
            asks=None,
            attempts=[AttemptView.from_attempt(attempt) for attempt in row.attempts],
        )


class DeadTask(TaskView):
    """A dead-lettered, failed or timed-out task, with its attempts."""

    attempts: list[AttemptView]

    @classmethod
    def from_row(cls, row: TaskRow, reason: str | None) -> Self:
        attempts = [AttemptView.from_attempt(attempt) for attempt in row.attempts]
        return cls(**dict(TaskView.from_row(row, reason)), attempts=attempts)


class WorkerVerdict(BaseModel):
    """The reason why a worker does or does not get a task."""

    worker: str
    verdict: str


class Explanation(BaseModel):
    """The explanation of a task's status: one sentence, and a verdict for each worker."""

    run: str
    id: str
    status: TaskStatus
    reason: str | None
    asks: Asks | None
    workers: list[WorkerVerdict]


class Cancelled(BaseModel):
    """The number of tasks that were cancelled."""

    run: str
    cancelled: int


class RefusedTask(BaseModel):
    """A task that was not retried, with the reason."""

    run: str
    id: str
    reason: str


class Retried(BaseModel):
    """The number of tasks that were retried, and the tasks that were refused."""

    retried: int
    refused: list[RefusedTask]


class ParkedView(BaseModel):
    """An unreadable message, with the beginning of its body; `size` is in bytes."""

    message_id: str
    type: str
    reason: str
    queue: str
    exchange: str
    routing_key: str
    parked_at: datetime | None
    size: int
    body: str


class RunView(BaseModel):
    """A run. `success_rate` is in percent of the ended tasks, null if no task has ended."""

    run: str
    title: str
    tasks: int
    ended: int
    counts: dict[TaskStatus, int]
    success_rate: float | None
    submitted_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def from_run(cls, row: RunRow) -> Self:
        counts = all_counts(row.counts)
        return cls(
            run=row.run,
            title=row.title,
            tasks=row.total,
            ended=row.ended,
            counts=counts,
            success_rate=success_rate(counts),
            submitted_at=utc(row.submitted_at),
            finished_at=utc(row.finished_at),
        )


class WorkerView(BaseModel):
    """A worker. A connected worker has the status connected, suspect or draining.

    The status of any other worker is disconnected or lost. `running` is the number of attempts in its slots,
    `waiting` the number of prefetched attempts. A worker with a `reserve` takes easier tasks only if they have waited long. `refused` lists types that it returned.
    """

    name: str
    incarnation: str
    skill: int
    specialties: list[str]
    reserve: int
    slots: int
    running: int
    waiting: int
    status: str
    last_seen: datetime | None
    types: list[str] | None
    refused: list[str]

    @classmethod
    def of_live(cls, entry: WorkerEntry) -> Self:
        """Make the view of a connected worker."""
        row = WorkerRow(entry.profile, WorkerEventKind.CONNECTED, "", entry.last_seen)
        view = cls.of_row(row)
        view.running = min(len(entry.attempts), entry.slots)
        view.waiting = len(entry.attempts) - view.running
        view.status = live_status(entry)
        view.refused = sorted(entry.skills.refused)
        return view

    @classmethod
    def of_departed(cls, row: WorkerRow) -> Self:
        """Make the view of a worker that is not connected to the leading manager."""
        view = cls.of_row(row)
        # The row of a worker that has sent nothing to this manager may still say `connected`.
        if row.status is not WorkerEventKind.DISCONNECTED:
            view.status = WorkerEventKind.LOST
        return view

    @classmethod
    def of_row(cls, row: WorkerRow) -> Self:
        """Make the view from the store alone."""
        profile = row.profile
        return cls(
            name=profile.title,
            incarnation=profile.incarnation,
            skill=profile.skill,
            specialties=list(profile.specialties),
            reserve=profile.reserve,
            slots=profile.slots,
            running=0,
            waiting=0,
            status=row.status,
            last_seen=utc(row.since),
            types=None if profile.types is None else list(profile.types),
            refused=[],
        )


class Slots(BaseModel):
    """Numbers of slots. Slots of suspect and draining workers are never `free`."""

    total: int
    busy: int
    free: int


class Runs(BaseModel):
    """Numbers of runs: `open` runs have tasks that have not ended."""

    open: int
    ended: int


class Leadership(BaseModel):
    """The leadership of the manager that answers.

    While it is `blind`, it leads, cannot receive heartbeats, and takes no worker for lost. `store` is the id of
    its store.
    """

    leading: bool
    blind: bool
    store: str


class Summary(BaseModel):
    """A summary of all runs; `workers` is the number of connected workers by status."""

    tasks: dict[TaskStatus, int]
    total: int
    success_rate: float | None
    workers: dict[str, int]
    slots: Slots
    runs: Runs
    manager: Leadership


LIVE_STATUSES = ("connected", "suspect", "draining")


def live_status(entry: WorkerEntry) -> str:
    """Return the status of a connected worker, one of `LIVE_STATUSES`."""
    if entry.suspect:
        return "suspect"
    return "draining" if entry.draining else "connected"


def all_counts(counts: dict[TaskStatus, int]) -> dict[TaskStatus, int]:
    """Return the counts of all statuses, with zeros, in the order of a task's life."""
    return {status: counts.get(status, 0) for status in TaskStatus}


def success_rate(counts: dict[TaskStatus, int]) -> float | None:
    """Return the percentage of ended tasks that succeeded, or None if no task has ended."""
    ended = sum(n for status, n in counts.items() if status.is_terminal)
    return 100.0 * counts[TaskStatus.SUCCEEDED] / ended if ended else None


def utc(seconds: float | None) -> datetime | None:
    """Return a time as UTC, or None if it is None or out of range.

    A time out of range comes from a worker with a wrong clock. It must not make the whole page fail.
    """
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
