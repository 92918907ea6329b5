"""Build messages and entries of the core, and drive a core state with a clock."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

from skillq.messages import (
    AttemptRef,
    Connect,
    Disconnect,
    Heartbeat,
    Outcome,
    Progress,
    ProgressItem,
    Submission,
    Task,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerProfile,
    slug,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core import explain
from skillq_manager.core.model import Need, TaskEntry, TaskKey, Terms, WorkerEntry
from skillq_manager.core.rules.matching import BestFit, Policy
from skillq_manager.core.state import State
from skillq_manager.store.base import LiveRow
from tests.support.invariants import validate

C = TypeVar("C")

_EFFORT = int(os.environ.get("SKILLQ_TEST_EFFORT", "1"))


def budget(examples: int, **more: Any) -> settings:
    """Return Hypothesis settings: the same examples in every run.

    SKILLQ_TEST_EFFORT=20 searches for new examples, twenty times as long.
    """
    return settings(
        max_examples=examples * _EFFORT,
        derandomize=_EFFORT == 1,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


# --- messages --------------------------------------------------------------------------------


def profile(
    title: str = "ada", skill: int = 5, incarnation: str = "1", **more: Any
) -> WorkerProfile:
    return WorkerProfile(
        name=slug(title), title=title, skill=skill, incarnation=incarnation, **more
    )


def connect(title: str = "ada", skill: int = 5, *, ready: bool = True, **more: Any) -> Connect:
    return Connect(worker=profile(title, skill, **more), ready=ready)


def disconnect(worker: WorkerProfile, reason: str = "") -> Disconnect:
    return Disconnect(worker=worker.name, incarnation=worker.incarnation, reason=reason)


def heartbeat(worker: WorkerProfile, *holds: AttemptRef, draining: bool = False) -> Heartbeat:
    return Heartbeat(worker=worker, holds=holds, draining=draining)


def task(id: str = "a", difficulty: int = 1, **more: Any) -> Task:
    return Task(id=id, difficulty=difficulty, **more)


def submission(*tasks: Task, run: str = "default") -> Submission:
    return Submission(submission_id="s", run=slug(run), run_title=run, tasks=tasks)


def ref(assignment: c.Assign) -> AttemptRef:
    return AttemptRef(run=assignment.key[0], id=assignment.key[1], attempt=assignment.attempt)


def result(assignment: c.Assign, outcome: Outcome = Outcome.SUCCEEDED, **more: Any) -> TaskResult:
    return TaskResult(
        run=assignment.key[0],
        id=assignment.key[1],
        attempt=assignment.attempt,
        outcome=outcome,
        **more,
    )


def results(assignment: c.Assign, outcome: Outcome = Outcome.SUCCEEDED, **more: Any) -> TaskResults:
    return report(assignment.worker, result(assignment, outcome, **more))


def report(worker: WorkerProfile, *reported: TaskResult) -> TaskResults:
    return TaskResults(worker=worker.name, incarnation=worker.incarnation, results=reported)


def progress(assignment: c.Assign, at: float = 0.0) -> Progress:
    item = ProgressItem(
        run=assignment.key[0], id=assignment.key[1], attempt=assignment.attempt, at=at
    )
    return Progress(
        worker=assignment.worker.name, incarnation=assignment.worker.incarnation, items=(item,)
    )


def returned(*assignments: c.Assign) -> e.AssignmentReturned:
    worker = assignments[0].worker
    return e.AssignmentReturned(
        worker.name, worker.incarnation, tuple(ref(one) for one in assignments)
    )


# --- entries of the core ---------------------------------------------------------------------


def need(
    type: str = "task",
    difficulty: int = 1,
    requires: Iterable[str] = (),
    *,
    excluded: Iterable[str] = (),
    aged: bool = False,
) -> Need:
    return Need(type, difficulty, frozenset(requires), frozenset(excluded), aged)


def terms(**more: Any) -> Terms:
    return Terms.from_task(task(**more))


def task_entry(
    seq: int, of: Need | None = None, priority: int = 1, *, ready_at: float = 0.0
) -> TaskEntry:
    return TaskEntry(
        key=("run", str(seq)),
        seq=seq,
        need=of or need(),
        priority=priority,
        terms=terms(),
        fingerprint=0,
        submitted_at=0.0,
        status=TaskStatus.READY,
        ready_at=ready_at,
    )


def live_row(
    of: Task, status: TaskStatus = TaskStatus.READY, *, seq: int = 1, **more: Any
) -> LiveRow:
    """Return a task as a store loads it for the next manager."""
    facts: dict[str, Any] = {
        "submitted_at": 900.0, "attempt": 0, "failures": 0, "losses": 0, "worker": None,
        "incarnation": None, "assigned_at": None, "retry_at": None, "need": None,
    }  # fmt: skip
    return LiveRow(
        run="default",
        id=of.id,
        seq=seq,
        like=of,
        fingerprint=of.fingerprint(),
        status=status,
        **facts | more,
    )


def worker_entry(joined: int, skill: int = 5, title: str = "", **more: Any) -> WorkerEntry:
    worker = profile(title or f"w{joined}", skill, **more)
    return WorkerEntry(worker, joined, last_seen=0.0)


# --- a state with a clock --------------------------------------------------------------------


class Driver:
    """Pass events to a state, keep what a store would keep, and validate the state after every round."""

    def __init__(self, policy: Policy | None = None, *, chance: float = 0.5, **more: Any) -> None:
        self.now = 1000.0
        self.state = State(policy or BestFit(), chance=lambda: chance, **more)
        self.stored: dict[TaskKey, e.StoredStatus] = {}
        self.titles: dict[str, str] = {}
        self.seqs: dict[TaskKey, int] = {}
        self.attempts: dict[TaskKey, int] = {}

    def __call__(
        self, *events: e.Event | Submission, after: float = 0.0, paused: float = 0.0
    ) -> list[c.Command]:
        """Handle events, `after` seconds with a round each second, or `paused` seconds without a round."""
        out: list[c.Command] = []
        while after > 1.0:
            self.now += 1.0
            after -= 1.0
            out += self._handle_events()
        self.now += after + paused
        return out + self._handle_events(*events)

    def _handle_events(self, *events: e.Event | Submission) -> list[c.Command]:
        known = dict(self.stored)
        converted = [self._as_event(event, known) for event in events]
        out = self._handle(converted)
        validate(self.state)
        return out

    def _handle(self, events: Iterable[e.Event]) -> list[c.Command]:
        out = self.state.handle(events, self.now)
        self._store(out)
        return out

    def restore(self, *rows: LiveRow, workers: Iterable[WorkerProfile] = ()) -> list[c.Command]:
        """Load the state of an earlier manager."""
        self.state.begin_restore(workers, max((row.seq for row in rows), default=0), self.now)
        for row in rows:
            self.stored[row.run, row.id] = e.StoredStatus(row.status, row.fingerprint)
            self.titles[row.run] = row.run
            self.state.restore([row])
        out = self.state.end_restore()
        self._store(out)
        validate(self.state)
        return out

    def retry(self, *tasks: Task, run: str = "default", **more: Any) -> list[c.Command]:
        """Handle an operator's request to retry these tasks."""
        stored = [self._stored_task(of, run, **more) for of in tasks]
        return self(e.RetryRequested("r", tuple(stored), dict(self.stored)))

    def _stored_task(self, of: Task, run: str, **more: Any) -> e.StoredTask:
        stored = self.stored[run, of.id]
        facts: dict[str, Any] = {
            "status": stored.status,
            "attempt": self.attempts.get((run, of.id), 0),
        } | more
        return e.StoredTask((run, of.id), self.seqs[run, of.id], of, stored.fingerprint, **facts)

    def _as_event(
        self, event: e.Event | Submission, known: dict[TaskKey, e.StoredStatus]
    ) -> e.Event:
        if isinstance(event, Submission):
            return e.SubmissionReceived(event, known, self.titles.get(event.run))
        return event

    def _store(self, out: Sequence[c.Command]) -> None:
        for command in out:
            if isinstance(command, c.AddTask):
                self.stored[command.key] = e.StoredStatus(command.status, command.fingerprint)
                self.titles[command.key[0]] = command.run_title
                self.seqs[command.key] = command.seq
            elif isinstance(command, c.SetStatus | c.EndAttempt | c.Reopen):
                self._set(command.key, command.status)
            elif isinstance(command, c.Assign):
                self._set(command.key, TaskStatus.ASSIGNED)
                self.attempts[command.key] = command.attempt
            elif isinstance(command, c.StartAttempt):
                self._set(command.key, TaskStatus.RUNNING)

    def _set(self, key: TaskKey, status: TaskStatus) -> None:
        self.stored[key] = self.stored[key]._replace(status=status)

    def status(self, id: str, run: str = "default") -> TaskStatus:
        return self.stored[run, id].status

    def reason(self, id: str, run: str = "default") -> str | None:
        return explain.reason(self.state, (run, id), self.now)


def cancel(*ids: str, run: str = "default", reason: str = "not wanted") -> e.CancelRequested:
    """Return the request to cancel these tasks, or all tasks of the run."""
    return e.CancelRequested("r", run, ids or None, reason)


def pick(out: Iterable[c.Command], command_type: type[C]) -> list[C]:
    """Return the commands of one class."""
    return [command for command in out if isinstance(command, command_type)]


def one(out: Iterable[c.Command], command_type: type[C]) -> C:
    """Return the only command of a class."""
    (command,) = pick(out, command_type)
    return command


def pairs(out: Iterable[c.Command]) -> list[tuple[str, str]]:
    """Return the assignments as pairs of task id and worker name."""
    return [(assign.key[1], assign.worker.name) for assign in pick(out, c.Assign)]
