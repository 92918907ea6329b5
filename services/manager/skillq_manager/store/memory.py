"""The store in memory, for the embedded mode and tests: it lasts as long as the process."""

from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import Any, Self, cast
from uuid import uuid4

from skillq.messages import TERMINAL, TaskStatus, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.model import DispatchKey, Need, TaskKey
from skillq_manager.core.rules.lifecycle import ASSIGNED, READY, RUNNING
from skillq_manager.store import base, preconditions
from skillq_manager.store.base import (
    AttemptRow,
    Body,
    LiveRow,
    RunRow,
    StoreConflict,
    TaskFilter,
    TaskRow,
    WorkerRow,
    without_payload,
    without_texts,
)

_LOAD_PAGE = 1000

_Position = tuple[TaskStatus, int]  # the status of a task and the number of its last attempt


@dataclass(slots=True)
class _RestoreFields:
    """The fields of a task that a starting manager restores and the views do not show."""

    opened_at: float
    holder: WorkerProfile | None = None
    failures: int = 0
    losses: int = 0
    retry_at: float | None = None
    need: Need | None = None
    backlog: Need | None = None  # the need in whose backlog the task was put


class MemoryStore:
    """Implements `skillq_manager.store.base.Store` in memory."""

    def __init__(self) -> None:
        self.id = uuid4().hex[:8]
        self._tasks: dict[TaskKey, TaskRow] = {}
        self._restore_fields: dict[TaskKey, _RestoreFields] = {}
        self._rows: list[TaskRow] = []  # in order of submission
        self._rows_by_run: dict[str, list[TaskRow]] = {}
        self._runs: dict[str, RunRow] = {}
        self._workers: dict[str, WorkerRow] = {}
        self._writers: dict[type, Callable[[Any], None]] = {
            c.AddTask: self._add_task,
            c.MoveToBacklog: self._move_to_backlog,
            c.SetStatus: self._set_status,
            c.Assign: self._assign,
            c.StartAttempt: self._start_attempt,
            c.EndAttempt: self._end_attempt,
            c.SetNeed: self._set_need,
            c.Reopen: self._reopen,
            c.RecordStaleResult: self._add_stale_result,
            c.SaveWorker: self._save_worker,
            c.CompleteRun: self._complete_run,
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    # --- LeaderLease: no other process can use this store

    epoch = 0

    async def acquire(self) -> bool:
        return True

    async def release(self) -> None: ...

    # --- Journal

    async def commit(self, commands: Sequence[c.Command]) -> None:
        self._check_all(commands)
        for command in commands:
            writer = self._writers.get(type(command))
            if writer is not None:
                writer(command)

    async def load(self, *, include_backlog: bool = True) -> AsyncIterator[list[LiveRow]]:
        live = [row for row in self._rows if not row.status.is_terminal]
        if not include_backlog:
            live = [row for row in live if self._backlog_need(row) is None]
            live.sort(
                key=lambda row: self._restore_fields[row.run, row.task.id].backlog is not None
            )
        for start in range(0, len(live), _LOAD_PAGE):
            yield self._live_rows(live[start : start + _LOAD_PAGE])

    def _live_rows(self, rows: Iterable[TaskRow]) -> list[LiveRow]:
        return [_live_row(row, self._restore_fields[row.run, row.task.id]) for row in rows]

    def _backlog_need(self, row: TaskRow) -> Need | None:
        """Return the need in whose backlog the task is, or None if the task is not in the backlog."""
        ready = row.status is READY
        return self._restore_fields[row.run, row.task.id].backlog if ready else None

    async def backlog_summary(self) -> e.BacklogSummary:
        needs = dict.fromkeys(need for row in self._rows if (need := self._backlog_need(row)))
        counts = {run.run: run.counts[READY] for run in self._runs.values()}
        return e.BacklogSummary(tuple(needs), {run: n for run, n in counts.items() if n})

    async def backlog_page(self, request: c.RefillRequest) -> e.BacklogPage:
        rows = [row for row in self._rows if self._backlog_need(row) == request.need]
        rows = sorted(
            (row for row in rows if _dispatch_key(row) >= request.start), key=_dispatch_key
        )
        first = self._live_rows(rows[: request.limit])
        return e.BacklogPage(request.need, first, len(first) == request.limit)

    async def backlog_tasks(self, run: str, ids: Sequence[str] | None) -> list[LiveRow]:
        rows = self._candidates(TaskFilter(run=run, ids=None if ids is None else tuple(ids)))
        found = (row for row in rows if self._backlog_need(row))
        return self._live_rows(islice(found, base.BACKLOG_PAGE if ids is None else None))

    async def last_seq(self) -> int:
        return self._rows[-1].seq if self._rows else 0

    async def known_tasks(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, e.StoredStatus]:
        found = ((key, self._tasks.get(key)) for key in keys)
        return {
            key: e.StoredStatus(row.status, row.fingerprint)
            for key, row in found
            if row is not None
        }

    async def bodies(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Body]:
        return {key: self._body(key) for key in keys if key in self._tasks}

    def _body(self, key: TaskKey) -> Body:
        task = self._tasks[key].task
        return Body.from_task(task, {id: self._tasks[key[0], id].output for id in task.depends_on})

    # --- Checks before the first write

    def _check_all(self, commands: Sequence[c.Command]) -> None:
        """Raise StoreConflict unless each command meets its precondition, in order."""
        now: dict[TaskKey, _Position] = {}
        last_seq = self._rows[-1].seq if self._rows else -1
        for command in commands:
            if isinstance(command, c.AddTask):
                if command.seq <= last_seq or command.key in self._tasks or command.key in now:
                    raise StoreConflict(f"task {command.key} or number {command.seq} is there")
                last_seq = command.seq
                now[command.key] = command.status, 0
            elif type(command) in preconditions.FROM:
                move = cast(preconditions.Move, command)
                now[move.key] = self._check_move(
                    move, now.get(move.key) or self._stored_position(move.key)
                )

    def _check_move(self, command: preconditions.Move, position: _Position) -> _Position:
        """Check one command; return the position of the task after this command."""
        status, attempt = position
        needed = preconditions.attempt_before(command)
        if status not in preconditions.FROM[type(command)] or needed not in (None, attempt):
            raise StoreConflict(
                f"{type(command).__name__} does not fit task {command.key}: "
                f"it is {status}, its last attempt is {attempt}"
            )
        after = command.attempt if isinstance(command, c.Assign) else attempt
        return preconditions.status_after(command) or status, after

    def _stored_position(self, key: TaskKey) -> _Position:
        row = self._tasks.get(key)
        if row is None:
            raise StoreConflict(f"there is no task {key}")
        return row.status, row.attempt

    # --- One writer per command

    def _add_task(self, command: c.AddTask) -> None:
        run, _ = command.key
        row = TaskRow(
            run, command.seq, command.task, command.fingerprint, command.status, command.at
        )
        self._tasks[command.key] = row
        self._restore_fields[command.key] = _RestoreFields(command.at, backlog=command.backlog)
        self._rows.append(row)
        self._rows_by_run.setdefault(run, []).append(row)
        if run not in self._runs:
            self._runs[run] = RunRow(run, command.run_title, command.at, counts=Counter())
        self._runs[run].finished_at = None
        self._runs[run].counts[command.status] += 1

    def _move_to_backlog(self, command: c.MoveToBacklog) -> None:
        self._restore_fields[command.key].backlog = command.need

    def _end_or_move(self, row: TaskRow, command: c.SetStatus | c.EndAttempt) -> None:
        self._change_status(row, command.status)
        row.reason = command.reason
        if command.status in TERMINAL:
            row.finished_at = command.at

    def _change_status(self, row: TaskRow, status: TaskStatus) -> None:
        counts = self._runs[row.run].counts
        counts[row.status] -= 1
        counts[status] += 1
        row.status = status

    def _row_and_fields(self, key: TaskKey) -> tuple[TaskRow, _RestoreFields]:
        return self._tasks[key], self._restore_fields[key]

    def _set_status(self, command: c.SetStatus) -> None:
        self._end_or_move(self._tasks[command.key], command)
        self._restore_fields[command.key].retry_at = None

    def _assign(self, command: c.Assign) -> None:
        row, fields, worker = *self._row_and_fields(command.key), command.worker
        self._change_status(row, ASSIGNED)
        row.attempt, row.worker, row.reason = command.attempt, worker.title, None
        row.started_at = None
        fields.holder, fields.retry_at = worker, None
        row.attempts.append(
            AttemptRow(command.attempt, worker.title, worker.incarnation, command.at)
        )

    def _start_attempt(self, command: c.StartAttempt) -> None:
        row = self._tasks[command.key]
        self._change_status(row, RUNNING)
        row.started_at = command.at
        _current_attempt(row).started_at = command.at

    def _end_attempt(self, command: c.EndAttempt) -> None:
        row, fields = self._row_and_fields(command.key)
        attempt, result = _current_attempt(row), command.result
        self._end_or_move(row, command)
        fields.holder, fields.retry_at = None, command.retry_at
        fields.failures, fields.losses = command.failures, command.losses
        fields.backlog = None
        attempt.outcome, attempt.error = command.outcome, command.reason
        attempt.finished_at = command.at
        if result is not None:
            attempt.started_at = result.started_at or attempt.started_at
            attempt.finished_at = result.finished_at or command.at
        row.started_at = attempt.started_at
        if command.status in TERMINAL:
            row.output = result.output if result is not None else None
            row.error = command.reason
            row.finished_at = attempt.finished_at

    def _set_need(self, command: c.SetNeed) -> None:
        row, fields = self._row_and_fields(command.key)
        fields.need, row.reason = command.need, command.reason
        fields.backlog = None

    def _reopen(self, command: c.Reopen) -> None:
        row = self._tasks[command.key]
        self._restore_fields[command.key] = _RestoreFields(command.at)
        self._change_status(row, command.status)
        self._runs[row.run].finished_at = None
        row.reason = row.finished_at = row.output = row.error = None

    def _add_stale_result(self, command: c.RecordStaleResult) -> None:
        row = self._tasks.get((command.result.run, command.result.id))
        if row is not None:
            row.attempts.append(AttemptRow.from_stale_result(command))

    def _save_worker(self, command: c.SaveWorker) -> None:
        self._workers[command.profile.name] = WorkerRow(
            command.profile, command.event, command.reason, command.at
        )

    def _complete_run(self, command: c.CompleteRun) -> None:
        run = self._runs.get(command.run)
        if run is not None and run.finished_at is None:
            run.finished_at = command.at

    # --- Views

    async def runs(self) -> list[RunRow]:
        return [_run_row(run) for run in self._runs.values()]

    async def run(self, run: str) -> RunRow | None:
        found = self._runs.get(run)
        return None if found is None else _run_row(found)

    async def tasks(self, task_filter: TaskFilter) -> list[TaskRow]:
        rows = self._candidates(task_filter)
        first = bisect_right(rows, task_filter.cursor, key=lambda row: row.seq)
        matching = (row for row in islice(rows, first, None) if _matches(row, task_filter))
        return [
            replace(row, task=without_payload(row.task), attempts=[])
            for row in islice(matching, task_filter.limit)
        ]

    def _candidates(self, task_filter: TaskFilter) -> list[TaskRow]:
        """Return a small superset of the matching rows, in order of submission."""
        if task_filter.run is None:
            return self._rows
        if task_filter.ids is None:
            return self._rows_by_run.get(task_filter.run, [])
        named = (self._tasks.get((task_filter.run, id)) for id in dict.fromkeys(task_filter.ids))
        return sorted((row for row in named if row is not None), key=lambda row: row.seq)

    async def task(self, key: TaskKey) -> TaskRow | None:
        row = self._tasks.get(key)
        if row is None:
            return None
        attempts = sorted(row.attempts, key=lambda a: (a.attempt, not a.counted))
        return replace(row, attempts=[replace(attempt) for attempt in attempts])

    async def workers(self) -> list[WorkerRow]:
        return [self._workers[name] for name in sorted(self._workers)]


def _current_attempt(row: TaskRow) -> AttemptRow:
    """Return the attempt with the highest number that counts: stale results may follow it."""
    last = row.attempts[-1]
    return last if last.counted else next(a for a in reversed(row.attempts) if a.counted)


def _live_row(row: TaskRow, fields: _RestoreFields) -> LiveRow:
    holder = fields.holder
    return LiveRow(
        run=row.run,
        id=row.task.id,
        seq=row.seq,
        like=without_texts(row.task),
        fingerprint=row.fingerprint,
        status=row.status,
        submitted_at=fields.opened_at,
        attempt=row.attempt,
        failures=fields.failures,
        losses=fields.losses,
        worker=None if holder is None else holder.name,
        incarnation=None if holder is None else holder.incarnation,
        assigned_at=None if holder is None else _current_attempt(row).assigned_at,
        retry_at=fields.retry_at,
        need=fields.need,
    )


def _dispatch_key(row: TaskRow) -> DispatchKey:
    return (-row.task.priority, row.seq)


def _run_row(run: RunRow) -> RunRow:
    return replace(run, counts={status: n for status, n in run.counts.items() if n})


def _matches(row: TaskRow, task_filter: TaskFilter) -> bool:
    return (
        task_filter.status in {None, row.status}
        and task_filter.type in {None, row.task.type}
        and task_filter.worker in {None, row.worker}
        and (task_filter.ids is None or row.task.id in task_filter.ids)
    )
