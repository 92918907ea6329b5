"""An independent bookkeeper for the state machine: it believes commands only as far as they make sense."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
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
    Unroutable,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.model import TaskKey
from skillq_manager.store.base import LiveRow
from tests.support.oracle_lookahead import LookaheadOracle, keys_held_by
from tests.support.oracle_rows import OracleRow
from tests.support.oracle_rows import worker_id as of
from tests.support.oracle_workers import DEPARTED_SECONDS, WorkersOracle

S, O = TaskStatus, Outcome  # noqa: E741 - two letters that are on every line

AGED_AFTER = 60.0  # seconds until reserved workers take easy work
SLACK = 15.0  # seconds that a worker has to say itself that an attempt took too long


@dataclass
class TasksOracle:
    workers: WorkersOracle
    now: float = 0.0
    undisturbed_since: float = 0.0  # the manager has heard all, without a pause
    requests: dict[str, e.CancelRequested | e.RetryRequested] = field(
        default_factory=dict
    )  # this turn
    reopened: Counter[TaskKey] = field(default_factory=Counter)
    just_ended: set[TaskKey] = field(default_factory=set)
    rows: dict[TaskKey, OracleRow] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    ended: Counter[TaskKey] = field(default_factory=Counter)
    changed_runs: set[str] = field(default_factory=set)
    accepted: dict[TaskKey, Task] = field(default_factory=dict)  # accepted, in this batch or before
    lookahead: LookaheadOracle = field(default_factory=LookaheadOracle)
    senders: dict[int, tuple[str, str]] = field(default_factory=dict)  # of results, by identity

    # --- before a turn

    def submission_event(self, submission: Submission) -> e.SubmissionReceived:
        """What the shell makes of a submission: it looks up all that is named, as of before the batch."""
        named = {id for t in submission.tasks for id in (t.id, *t.depends_on)}
        keys = [(submission.run, id) for id in named]
        known = {key: self.rows[key].stored_status for key in keys if key in self.rows}
        return e.SubmissionReceived(submission, known, self.titles.get(submission.run))

    def retry_event(self, request: str, keys: Iterable[TaskKey]) -> e.RetryRequested:
        """What the shell makes of a wish to send tasks again."""
        rows = {key: self.rows[key] for key in keys}
        named = {(key[0], d) for key, row in rows.items() for d in row.task.depends_on}
        known = {key: self.rows[key].stored_status for key in named}
        again = [
            e.StoredTask(key, row.seq, row.task, row.fingerprint, row.status, row.attempt)
            for key, row in rows.items()
        ]
        return e.RetryRequested(request, tuple(again), known)

    def begin_round(self, events: Iterable[e.Event], now: float) -> list[tuple[int, int, bool]]:
        """Open a turn; returns what each submission has to be answered."""
        if now - self.now > SLACK / 2:
            self.undisturbed_since = now
        self.now = self.workers.now = now
        self.requests.clear()
        self.just_ended.clear()
        self.changed_runs.clear()
        self.senders.clear()
        for row in self.rows.values():
            row.has_aged |= row.status is S.READY and now - row.ready_at >= AGED_AFTER
        answers = []
        titles = dict(self.titles)
        for event in events:
            if isinstance(event, e.SubmissionReceived):
                answers.append(self._expected_answer(event.submission, titles))
            else:
                self._record_event(event)
        return answers

    def _record_event(self, event: e.Event) -> None:
        match event:
            case Disconnect():
                self.workers.departed_at[event.worker, event.incarnation] = self.now
            case e.HeartbeatsLost() | e.HeartbeatsRecovered():
                self.workers.heartbeats_lost = isinstance(event, e.HeartbeatsLost)
                self.undisturbed_since = self.now
            case e.CancelRequested() | e.RetryRequested():
                self.requests[event.request] = event
            case TaskResults():
                known = event.incarnation if event.store == "" else "of a lost store"
                for result in event.results:
                    self.senders[id(result)] = (event.worker, known)
            case _:
                pass

    def _expected_answer(
        self, submission: Submission, titles: dict[str, str]
    ) -> tuple[int, int, bool]:
        run, tasks = submission.run, {(submission.run, t.id): t for t in submission.tasks}
        known = {key for key in tasks if key in self.accepted}
        there = tasks.keys() | self.accepted.keys()
        if (
            titles.get(run, submission.run_title) != submission.run_title
            or any(self.accepted[key] != tasks[key] for key in known)
            or any((run, d) not in there for t in submission.tasks for d in t.depends_on)
        ):
            return (0, 0, False)
        titles[run] = submission.run_title
        self.accepted |= tasks
        self.changed_runs.add(run)
        return (len(tasks) - len(known), len(known), True)

    # --- after a turn

    def apply(self, out: Iterable[c.Command]) -> None:
        believe: dict[type, Callable[[Any], None]] = {
            c.AddTask: self._add_task,
            c.MoveToBacklog: self._move_to_backlog,
            c.SetStatus: self._set_status,
            c.Assign: self._assign,
            c.Resend: self._resend,
            c.StartAttempt: self._start_attempt,
            c.EndAttempt: self._end_attempt,
            c.RecordStaleResult: self._record_stale_result,
            c.SaveWorker: self.workers.save_worker,
            c.SetNeed: self._set_need,
            c.Reopen: self._reopen,
            c.AnswerRequest: self._answer_request,
        }
        for command in out:
            if not isinstance(
                command, c.AnswerSubmission | c.CompleteRun | c.CancelAttempts | c.RecallAttempts
            ):
                believe[type(command)](command)
        for command in out:
            if isinstance(command, c.RecallAttempts):
                assert not self.workers.heartbeats_lost
                self.lookahead.check_recall(command, self.rows, self.workers)
            if isinstance(command, c.CancelAttempts):
                self._cancel_attempts(command)  # it may come before what ends the attempt

    def check_runs(self, out: Iterable[c.Command]) -> None:
        """Exactly the runs that were touched and in which all has ended, once each."""
        completed = [command.run for command in out if isinstance(command, c.CompleteRun)]
        open_runs = {key[0] for key, row in self.rows.items() if row.status not in TERMINAL}
        assert sorted(completed) == sorted(self.changed_runs - open_runs)

    def _add_task(self, command: c.AddTask) -> None:
        assert command.key not in self.rows
        assert self.accepted[command.key] == command.task
        assert self._may_start(command.key, command.task) == (command.status is S.READY)
        assert command.status in {S.READY, S.BLOCKED}
        self.rows[command.key] = OracleRow(
            command.task,
            command.fingerprint,
            command.status,
            seq=command.seq,
            opened_at=self.now,
            ready_at=self.now,
        )
        self.titles[command.key[0]] = command.run_title

    def _move_to_backlog(self, command: c.MoveToBacklog) -> None:
        row = self.rows[command.key]
        assert (row.status, row.attempt) == (S.READY, 0)
        row.ready_at = row.opened_at  # the store does not know when it was no longer blocked

    def _set_status(self, command: c.SetStatus) -> None:
        row = self.rows[command.key]
        assert row.worker is None
        assert command.attempt == row.attempt
        row.retry_at = 0.0
        match row.status, command.status:
            case S.BLOCKED, S.READY:
                assert self._may_start(command.key, row.task) or self._dependencies_ended(
                    command.key
                )
                row.status, row.ready_at = S.READY, self.now
                return
            case S.BLOCKED, S.FAILED:
                others = {self.rows[command.key[0], d].status for d in row.task.depends_on}
                assert others & (TERMINAL - {S.SUCCEEDED})
                assert row.task.on_failed_dependency == "fail"
            case S.READY, S.DEAD_LETTERED:
                assert row.task.unroutable is Unroutable.REJECT
                self._check_unroutable(row)
            case ((S.BLOCKED | S.READY), S.TIMED_OUT):
                assert self.now >= row.deadline
            case ((S.BLOCKED | S.READY), S.CANCELLED):
                assert self._is_cancel_requested(command.key)
            case _:
                raise AssertionError(command)
        self._finish(command.key, command.status)

    def _check_unroutable(self, row: OracleRow) -> None:
        assert self.now >= max(row.ready_at, row.need_changed_at) + row.task.unroutable_after
        assert not self.workers.able_workers(row.current_need)

    def _is_cancel_requested(self, key: TaskKey) -> bool:
        return any(
            isinstance(asked, e.CancelRequested)
            and asked.run == key[0]
            and (asked.ids is None or key[1] in asked.ids)
            for asked in self.requests.values()
        )

    def _set_need(self, command: c.SetNeed) -> None:
        row = self.rows[command.key]
        old, new = row.current_need, command.need
        assert new != old
        assert row.status is S.READY
        assert new.type == old.type
        match command.reason.split()[0]:
            case "attempt":
                most = max(old.difficulty, min(10, self.workers.best_skill(old)))
                harder = min(old.difficulty + row.task.escalate_by, most)
                assert (new.difficulty, new.requires) == (harder, old.requires)
                assert len(new.excluded - old.excluded) <= 1
            case "relaxed:":
                assert row.task.unroutable is Unroutable.RELAX
                assert (new.requires < old.requires) != (new.difficulty == old.difficulty - 1)
                self._check_unroutable(row)
                row.need_changed_at = self.now
            case "escalated:":
                assert row.task.unroutable is Unroutable.ESCALATE
                self._check_unroutable(row)
                row.need_changed_at = self.now
            case _:
                assert command.reason == "no other worker can do it"
                assert not self.workers.able_workers(old)
                assert not new.excluded
        row.need = new

    def _reopen(self, command: c.Reopen) -> None:
        row = self.rows[command.key]
        assert row.status in TERMINAL - {S.SUCCEEDED}
        assert command.attempt == row.attempt
        assert self._may_start(command.key, row.task) == (command.status is S.READY)
        row.status, row.opened_at, row.ready_at = command.status, self.now, self.now
        row.failures, row.losses, row.need, row.has_aged, row.retry_at = 0, 0, None, False, 0.0
        self.reopened[command.key] += 1
        self.changed_runs.add(command.key[0])

    def _answer_request(self, command: c.AnswerRequest) -> None:
        """Commands come in the order of their events: here, all is as it was when this was answered."""
        asked = self.requests[command.request]
        assert len(set(command.done)) == len(command.done)
        if isinstance(asked, e.RetryRequested):
            assert {*command.done, *command.refused} == {again.key for again in asked.tasks}
            assert all(self.rows[key].status in {S.READY, S.BLOCKED} for key in command.done)
            for key, reason in command.refused.items():
                assert self._is_refusal_reason(key, reason)
            return
        assert all(self.rows[key].status is S.CANCELLED for key in command.done)
        for key, row in self.rows.items():
            if key[0] == asked.run and (asked.ids is None or key[1] in asked.ids):
                assert row.status in TERMINAL

    def _is_refusal_reason(self, key: TaskKey, reason: str) -> bool:
        row = self.rows[key]
        others = {self.rows[key[0], d].status for d in row.task.depends_on}
        return row.is_refusal_reason(reason, others, just_ended=key in self.just_ended)

    def _may_start(self, key: TaskKey, task: Task) -> bool:
        met = TERMINAL if task.on_failed_dependency == "run" else {S.SUCCEEDED}
        others = [self.rows.get((key[0], d)) for d in task.depends_on]
        return all(row is not None and row.status in met for row in others)

    def _dependencies_ended(self, key: TaskKey) -> bool:
        """A dependency that failed no longer holds it up, even if it is sent again."""
        task = self.rows[key].task
        ended = [
            self.rows[key[0], d].status in TERMINAL or self.reopened[key[0], d]
            for d in task.depends_on
        ]
        return task.on_failed_dependency == "run" and all(ended)

    def _assign(self, command: c.Assign) -> None:
        row, worker = self.rows[command.key], command.worker
        assert row.status is S.READY
        assert row.retry_at <= self.now
        assert command.attempt == row.attempt + 1
        assert self.now < row.deadline
        assert self.workers.connected[worker.name] == worker
        assert self.workers.is_able(worker, row.current_need, old=row.has_aged), (worker, row)
        assert worker.name not in self.workers.suspects
        assert self.workers.departed_at.get(of(worker), 0.0) <= self.now - DEPARTED_SECONDS
        row.status, row.attempt, row.worker = S.ASSIGNED, command.attempt, worker
        row.assigned_at, row.retry_at = self.now, 0.0
        held = [self.rows[key] for key in keys_held_by(worker, self.rows)]
        self.lookahead.check_attempts(worker, held, by_skill=self.workers.by_skill)

    def _start_attempt(self, command: c.StartAttempt) -> None:
        row = self.rows[command.key]
        assert row.status is S.ASSIGNED
        assert row.holder == (command.attempt, *of(command.worker))
        row.status = S.RUNNING

    def _end_attempt(self, command: c.EndAttempt) -> None:
        row = self.rows[command.key]
        assert row.status in {S.ASSIGNED, S.RUNNING}
        assert row.holder == (command.attempt, *of(command.worker))
        if command.result is not None:
            assert self._is_current(command.result)
            assert command.result.outcome is command.outcome
            self.lookahead.record_duration(row, command.result)
        late = (command.reason or "").startswith("its deadline")
        row.failures += command.outcome in {O.FAILED, O.TIMED_OUT} and not late
        row.losses += command.outcome is O.LOST
        assert (command.failures, command.losses) == (row.failures, row.losses)
        possible = self._possible_statuses(command, row, late=late)
        if self.now >= row.deadline:
            possible = {S.TIMED_OUT if status is S.READY else status for status in possible}
        assert command.status in possible
        if command.outcome is O.REFUSED:
            self.workers.refused_types.setdefault(command.worker.name, set()).add(row.task.type)
        row.worker, row.retry_at, row.ready_at = None, command.retry_at or 0.0, self.now
        if command.status is S.READY:
            row.status = S.READY
        else:
            assert command.retry_at is None
            self._finish(command.key, command.status)

    def _possible_statuses(
        self, command: c.EndAttempt, row: OracleRow, *, late: bool
    ) -> set[TaskStatus]:
        """What may become of the task after this."""
        if command.result is None:
            return self._possible_statuses_without_result(command, row, late=late)
        match command.outcome:
            case O.SUCCEEDED:
                return {S.SUCCEEDED}
            case O.FAILED | O.TIMED_OUT:
                given_up = S.FAILED if command.outcome is O.FAILED else S.TIMED_OUT
                return row.statuses_after_failure(given_up, {*command.result.error_types})
            case O.LOST:
                return row.statuses_after_loss()
            case _:
                return {S.READY}

    def _possible_statuses_without_result(
        self, command: c.EndAttempt, row: OracleRow, *, late: bool
    ) -> set[TaskStatus]:
        match command.outcome:
            case O.LOST:
                return row.statuses_after_loss()
            case O.TIMED_OUT:
                assert not self.workers.heartbeats_lost
                assert self.now - self.undisturbed_since >= SLACK
                begun = row.opened_at if late else row.assigned_at + SLACK
                assert self.now >= begun + (
                    (row.task.deadline if late else row.task.timeout) or inf
                )
                return (
                    {S.TIMED_OUT} if late else row.statuses_after_failure(S.TIMED_OUT, {"OSError"})
                )
            case O.CANCELLED:
                assert self._is_cancel_requested(command.key)
                return {S.CANCELLED}
            case _:
                assert command.outcome is O.RETURNED
                return {S.DEAD_LETTERED, S.READY}  # dead: undeliverable

    def _finish(self, key: TaskKey, status: TaskStatus) -> None:
        assert status in TERMINAL
        self.rows[key].status = status
        self.ended[key] += 1
        assert self.ended[key] == 1 + self.reopened[key]
        self.just_ended.add(key)
        self.changed_runs.add(key[0])

    def _is_current(self, result: TaskResult) -> bool:
        row = self.rows.get((result.run, result.id))
        return row is not None and row.holder == (result.attempt, *self.senders[id(result)])

    def _resend(self, command: c.Resend) -> None:
        assert self.rows[command.key].holder == (command.attempt, *of(command.worker))

    def _record_stale_result(self, command: c.RecordStaleResult) -> None:
        assert not self._is_current(command.result)

    def _cancel_attempts(self, command: c.CancelAttempts) -> None:
        for ref in command.attempts:
            row = self.rows.get((ref.run, ref.id))
            assert row is None or row.holder != (ref.attempt, *of(command.worker))

    def restart_manager(self, now: float) -> list[LiveRow]:
        """What the store hands over; what only the last manager knew is forgotten."""
        self.begin_round((), now)
        self.undisturbed_since = now
        self.workers.restart_manager()
        self.lookahead.shortest_by_type.clear()
        for row in self.rows.values():
            row.ready_at = now
        live = [
            row.live_row(key[0]) for key, row in self.rows.items() if row.status not in TERMINAL
        ]
        return sorted(live, key=lambda row: row.seq)

    def check_deadlines(self) -> None:
        """Nothing waits past its deadline; what a worker has may be late by as long as its result may take."""
        for row in self.rows.values():
            if row.worker is None:
                assert row.status in TERMINAL or self.now < row.deadline
            elif not self.workers.heartbeats_lost:
                assert self.now < max(row.deadline, self.undisturbed_since) + 2 * SLACK + 1.0

    def check_holders(self) -> None:
        """Attempts are with workers that are there, and with nobody else."""
        for row in self.rows.values():
            assert (row.worker is not None) == (row.status in {S.ASSIGNED, S.RUNNING})
            assert row.worker is None or of(self.workers.connected[row.worker.name]) == of(
                row.worker
            )
