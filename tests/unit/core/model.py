"""An independent bookkeeper for the state machine: it believes commands only as far as they make sense."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from skillq.messages import (
    TERMINAL,
    Disconnect,
    Outcome,
    Submission,
    Task,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerEventKind,
    WorkerProfile,
)
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey

S, O = TaskStatus, Outcome  # noqa: E741 - two letters that are on every line

MAX_LOSSES = 3
MEMORY = 60.0  # seconds for which a departed worker cannot come back
_ENDS = {
    O.SUCCEEDED: {S.SUCCEEDED},
    O.FAILED: {S.FAILED, S.READY},
    O.TIMED_OUT: {S.TIMED_OUT, S.READY},
    O.LOST: {S.DEAD_LETTERED, S.READY},
    O.RETURNED: {S.DEAD_LETTERED, S.READY},  # dead: undeliverable
    O.REFUSED: {S.READY},
    O.CANCELLED: {S.READY},
}


@dataclass
class Row:
    """What a store has in the row of one task."""

    task: Task
    fingerprint: int
    status: TaskStatus
    attempt: int = 0
    worker: WorkerProfile | None = None
    retry_at: float = 0.0
    failures: int = 0
    losses: int = 0

    @property
    def holder(self) -> tuple[int, str, str] | None:
        return (self.attempt, self.worker.name, self.worker.incarnation) if self.worker else None


@dataclass
class Model:
    now: float = 0.0
    rows: dict[TaskKey, Row] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    here: dict[str, WorkerProfile] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    gone: dict[tuple[str, str], float] = field(default_factory=dict)  # said goodbye, when
    ended: Counter[TaskKey] = field(default_factory=Counter)
    touched: set[str] = field(default_factory=set)
    promised: dict[TaskKey, Task] = field(default_factory=dict)  # accepted, in this batch or before
    senders: dict[int, tuple[str, str]] = field(default_factory=dict)  # of results, by identity

    # --- before a turn

    def event(self, submission: Submission) -> c.Submitted:
        """What the shell makes of a submission: it looks up all that is named, as of before the batch."""
        named = {t.id for t in submission.tasks} | {
            d for t in submission.tasks for d in t.depends_on
        }
        keys = [(submission.run, id) for id in named]
        known = {
            key: c.Known(self.rows[key].status, self.rows[key].fingerprint)
            for key in keys
            if key in self.rows
        }
        return c.Submitted(submission, known, self.titles.get(submission.run))

    def expect(self, events: Iterable[c.Event], now: float) -> list[tuple[int, int, bool]]:
        """Open a turn; returns what each submission has to be answered."""
        self.now = now
        self.touched.clear()
        self.senders.clear()
        answers = []
        titles = dict(self.titles)
        for event in events:
            if isinstance(event, c.Submitted):
                answers.append(self._answer(event.submission, titles))
            elif isinstance(event, Disconnect):
                self.gone[event.worker, event.incarnation] = now
            elif isinstance(event, TaskResults):
                for result in event.results:
                    known = event.incarnation if event.store == "" else "of a lost store"
                    self.senders[id(result)] = (event.worker, known)
        return answers

    def _answer(self, submission: Submission, titles: dict[str, str]) -> tuple[int, int, bool]:
        run, tasks = submission.run, {(submission.run, t.id): t for t in submission.tasks}
        known = {key for key in tasks if key in self.promised}
        there = tasks.keys() | self.promised.keys()
        if (
            titles.get(run, submission.run_title) != submission.run_title
            or any(self.promised[key] != tasks[key] for key in known)
            or any((run, d) not in there for t in submission.tasks for d in t.depends_on)
        ):
            return (0, 0, False)
        titles[run] = submission.run_title
        self.promised |= tasks
        self.touched.add(run)
        return (len(tasks) - len(known), len(known), True)

    # --- after a turn

    def apply(self, out: Iterable[c.Command]) -> None:
        believe: dict[type, Callable[[Any], None]] = {
            c.AddTask: self._add,
            c.SetStatus: self._set,
            c.Assign: self._assign,
            c.Resend: self._resend,
            c.Start: self._start,
            c.EndAttempt: self._end,
            c.Stale: self._stale,
            c.Abort: self._abort,
            c.SaveWorker: self._save,
        }
        for command in out:
            if not isinstance(command, c.Answer | c.CompleteRun):
                believe[type(command)](command)

    def check_runs(self, out: Iterable[c.Command]) -> None:
        """Exactly the runs that were touched and in which all has ended, once each."""
        completed = [command.run for command in out if isinstance(command, c.CompleteRun)]
        open_runs = {key[0] for key, row in self.rows.items() if row.status not in TERMINAL}
        assert sorted(completed) == sorted(self.touched - open_runs)

    def _add(self, command: c.AddTask) -> None:
        assert command.key not in self.rows
        assert self.promised[command.key] == command.task
        assert self._may_start(command.key, command.task) == (command.status is S.READY)
        assert command.status in {S.READY, S.BLOCKED}
        self.rows[command.key] = Row(command.task, command.fingerprint, command.status)
        self.titles[command.key[0]] = command.run_title

    def _set(self, command: c.SetStatus) -> None:
        row = self.rows[command.key]
        assert row.status is S.BLOCKED
        if command.status is S.READY:
            assert self._may_start(command.key, row.task)
            row.status = S.READY
        else:
            others = {self.rows[command.key[0], d].status for d in row.task.depends_on}
            assert others & (TERMINAL - {S.SUCCEEDED})
            self._finish(command.key, command.status)

    def _may_start(self, key: TaskKey, task: Task) -> bool:
        others = [self.rows.get((key[0], d)) for d in task.depends_on]
        return all(row is not None and row.status is S.SUCCEEDED for row in others)

    def _assign(self, command: c.Assign) -> None:
        row, worker = self.rows[command.key], command.worker
        assert row.status is S.READY
        assert row.retry_at <= self.now
        assert command.attempt == row.attempt + 1
        assert self._may_start(command.key, row.task)
        assert self.here[worker.name] == worker
        assert worker.name not in self.suspects
        assert self.gone.get(_who(worker), 0.0) <= self.now - MEMORY
        row.status, row.attempt, row.worker = S.ASSIGNED, command.attempt, worker
        assert len(self.held(worker)) <= worker.slots

    def _start(self, command: c.Start) -> None:
        row = self.rows[command.key]
        assert row.status is S.ASSIGNED
        assert row.holder == (command.attempt, *_who(command.worker))
        row.status = S.RUNNING

    def _end(self, command: c.EndAttempt) -> None:
        row = self.rows[command.key]
        assert row.status in {S.ASSIGNED, S.RUNNING}
        assert row.holder == (command.attempt, *_who(command.worker))
        assert command.status in _ENDS[command.outcome]
        if command.result is not None:
            assert self._is_current(command.result)
            assert command.result.outcome is command.outcome
        row.failures += command.outcome in {O.FAILED, O.TIMED_OUT}
        row.losses += command.outcome is O.LOST
        assert row.failures <= row.task.max_attempts
        assert row.losses <= MAX_LOSSES
        exhausted = row.failures == row.task.max_attempts or row.losses == MAX_LOSSES
        assert (command.status is S.READY) <= (not exhausted)
        row.worker, row.retry_at = None, command.retry_at or 0.0
        if command.status is S.READY:
            row.status = S.READY
        else:
            assert command.retry_at is None
            self._finish(command.key, command.status)

    def _finish(self, key: TaskKey, status: TaskStatus) -> None:
        assert status in TERMINAL
        self.rows[key].status = status
        self.ended[key] += 1
        assert self.ended[key] == 1
        self.touched.add(key[0])

    def _is_current(self, result: TaskResult) -> bool:
        row = self.rows.get((result.run, result.id))
        return row is not None and row.holder == (result.attempt, *self.senders[id(result)])

    def _resend(self, command: c.Resend) -> None:
        holder = self.rows[command.key].holder
        assert holder == (command.attempt, *_who(command.worker))

    def _stale(self, command: c.Stale) -> None:
        assert not self._is_current(command.result)

    def _abort(self, command: c.Abort) -> None:
        for ref in command.attempts:
            row = self.rows.get((ref.run, ref.id))
            assert row is None or row.holder != (ref.attempt, *_who(command.worker))

    def _save(self, command: c.SaveWorker) -> None:
        name = command.profile.name
        match command.event:
            case WorkerEventKind.CONNECTED:
                assert name not in self.here or _who(self.here[name]) == _who(command.profile)
                assert self.here.get(name) != command.profile or name in self.suspects
                assert not self.now - MEMORY < self.gone.get(_who(command.profile), 0.0) < self.now
                self.here[name] = command.profile
                self.suspects.discard(name)
            case WorkerEventKind.SUSPECT:
                assert _who(self.here[name]) == _who(command.profile)
                self.suspects.add(name)
            case WorkerEventKind.LOST | WorkerEventKind.DISCONNECTED:
                assert _who(self.here.pop(name)) == _who(command.profile)
                self.suspects.discard(name)

    def held(self, worker: WorkerProfile) -> list[TaskKey]:
        return [
            key for key, row in self.rows.items() if row.worker and _who(row.worker) == _who(worker)
        ]

    def check_holders(self) -> None:
        """Attempts are with workers that are there, and with nobody else."""
        for row in self.rows.values():
            assert (row.worker is not None) == (row.status in {S.ASSIGNED, S.RUNNING})
            assert row.worker is None or _who(self.here[row.worker.name]) == _who(row.worker)


def _who(worker: WorkerProfile) -> tuple[str, str]:
    return worker.name, worker.incarnation
