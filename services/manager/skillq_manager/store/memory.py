"""The store of the embedded mode: lasts as long as the process."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from skillq.messages import TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey
from skillq_manager.store.base import AttemptRow, Body, Filter, RunRow, TaskRow, WorkerRow


class MemoryStore:
    def __init__(self) -> None:
        self.id = uuid4().hex[:8]
        self._tasks: dict[TaskKey, TaskRow] = {}  # in order of submission
        self._runs: dict[str, RunRow] = {}
        self._by_run: dict[str, list[TaskRow]] = {}
        self._workers: dict[str, WorkerRow] = {}
        self._writers: dict[type, Callable[[Any], None]] = {
            c.AddTask: self._add,
            c.SetStatus: self._set_status,
            c.Assign: self._assign,
            c.Start: self._start,
            c.EndAttempt: self._end,
            c.Stale: self._stale,
            c.SaveWorker: self._save_worker,
            c.CompleteRun: self._complete_run,
        }

    # --- Journal

    async def commit(self, commands: Sequence[c.Command]) -> None:
        for command in commands:
            writer = self._writers.get(type(command))
            if writer is not None:
                writer(command)

    async def known(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, c.Known]:
        rows = ((key, self._tasks.get(key)) for key in keys)
        return {key: c.Known(row.status, row.fingerprint) for key, row in rows if row is not None}

    async def bodies(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Body]:
        return {key: self._body(key) for key in keys}

    def _body(self, key: TaskKey) -> Body:
        task = self._tasks[key].task
        return Body(task, {id: self._tasks[key[0], id].output for id in task.depends_on})

    def _add(self, command: c.AddTask) -> None:
        run, _ = command.key
        row = TaskRow(
            run, command.seq, command.task, command.fingerprint, command.status, command.at
        )
        self._tasks[command.key] = row
        self._by_run.setdefault(run, []).append(row)
        if run not in self._runs:
            self._runs[run] = RunRow(run, command.run_title, command.at, counts=Counter())
        self._runs[run].finished_at = None
        self._runs[run].counts[command.status] += 1

    def _move(self, row: TaskRow, command: c.SetStatus | c.EndAttempt) -> None:
        self._count(row, command.status)
        row.reason = command.reason
        if command.status.is_terminal:
            row.finished_at = command.at

    def _count(self, row: TaskRow, status: TaskStatus) -> None:
        counts = self._runs[row.run].counts
        counts[row.status] -= 1
        counts[status] += 1
        row.status = status

    def _set_status(self, command: c.SetStatus) -> None:
        self._move(self._tasks[command.key], command)

    def _assign(self, command: c.Assign) -> None:
        row = self._tasks[command.key]
        self._count(row, TaskStatus.ASSIGNED)
        row.attempt, row.worker, row.reason = command.attempt, command.worker.title, None
        row.attempts.append(
            AttemptRow(
                command.attempt, command.worker.title, command.worker.incarnation, command.at
            )
        )

    def _start(self, command: c.Start) -> None:
        row = self._tasks[command.key]
        self._count(row, TaskStatus.RUNNING)
        row.started_at = command.at
        self._attempt(row, command.attempt).started_at = command.at

    def _attempt(self, row: TaskRow, number: int) -> AttemptRow:
        return next(a for a in reversed(row.attempts) if a.attempt == number and a.counted)

    def _end(self, command: c.EndAttempt) -> None:
        row = self._tasks[command.key]
        self._move(row, command)
        attempt = self._attempt(row, command.attempt)
        attempt.outcome, attempt.error = command.outcome, command.reason
        attempt.finished_at = command.at
        result = command.result
        if result is not None:
            attempt.started_at = result.started_at or attempt.started_at
            attempt.finished_at = result.finished_at or command.at
        row.started_at = attempt.started_at
        if command.status.is_terminal:
            row.output = result.output if result is not None else None
            row.error = command.reason
            row.finished_at = attempt.finished_at

    def _stale(self, command: c.Stale) -> None:
        row = self._tasks.get((command.result.run, command.result.id))
        if row is None:
            return
        result = command.result
        row.attempts.append(
            AttemptRow(
                result.attempt,
                command.worker,
                command.incarnation,
                assigned_at=result.started_at or 0.0,
                started_at=result.started_at,
                finished_at=result.finished_at,
                outcome=result.outcome,
                error=result.error,
                counted=False,
            )
        )

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
        return list(self._runs.values())

    async def run(self, run: str) -> RunRow | None:
        return self._runs.get(run)

    async def tasks(self, which: Filter) -> list[TaskRow]:
        rows: Iterable[TaskRow] = (
            self._tasks.values() if which.run is None else self._by_run.get(which.run, ())
        )
        return list(islice((row for row in rows if _matches(row, which)), which.limit))

    async def task(self, key: TaskKey) -> TaskRow | None:
        return self._tasks.get(key)

    async def workers(self) -> list[WorkerRow]:
        return [self._workers[name] for name in sorted(self._workers)]


def _matches(row: TaskRow, which: Filter) -> bool:
    return (
        row.seq > which.cursor
        and which.status in {None, row.status}
        and which.type in {None, row.task.type}
        and which.worker in {None, row.worker}
    )
