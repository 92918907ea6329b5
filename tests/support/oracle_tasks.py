"""Keep all tasks independently of the core, and check every command against these rows.

See docs/adr/0017-allow-some-long-files-and-waits-in-tests.md.
"""

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
from tests.support.oracle_rows import OracleRow, worker_id
from tests.support.oracle_workers import DEPARTED_SECONDS, WorkersOracle

S, O = TaskStatus, Outcome  # noqa: E741 - most lines use one of these two

AGED_AFTER = 60.0  # seconds until reserved workers take easy tasks
SLACK = 15.0  # seconds that a worker has to report a timeout itself


@dataclass
class TasksOracle:
    workers: WorkersOracle
    now: float = 0.0
    undisturbed_since: float = 0.0  # since then no message was lost, and no pause was long
    requests: dict[str, e.CancelRequested | e.RetryRequested] = field(
        default_factory=dict
    )  # of this round
    reopened: Counter[TaskKey] = field(default_factory=Counter)
    just_ended: set[TaskKey] = field(default_factory=set)
    rows: dict[TaskKey, OracleRow] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    ended: Counter[TaskKey] = field(default_factory=Counter)
    changed_runs: set[str] = field(default_factory=set)
    accepted: dict[TaskKey, Task] = field(default_factory=dict)  # in this round or before
    lookahead: LookaheadOracle = field(default_factory=LookaheadOracle)
    senders: dict[int, tuple[str, str]] = field(
        default_factory=dict
    )  # of the results, by `id(result)`

    # --- before a round

    def submission_event(self, submission: Submission) -> e.SubmissionReceived:
        """Return the event that the manager makes of a submission, with the statuses stored before the round."""
        named = {id for t in submission.tasks for id in (t.id, *t.depends_on)}
        keys = [(submission.run, id) for id in named]
        known = {key: self.rows[key].stored_status for key in keys if key in self.rows}
        return e.SubmissionReceived(submission, known, self.titles.get(submission.run))

    def retry_event(self, request: str, keys: Iterable[TaskKey]) -> e.RetryRequested:
        """Return the event that the manager makes of a request to retry tasks."""
        rows = {key: self.rows[key] for key in keys}
        named = {(key[0], d) for key, row in rows.items() for d in row.task.depends_on}
        known = {key: self.rows[key].stored_status for key in named}
        again = [
            e.StoredTask(key, row.seq, row.task, row.fingerprint, row.status, row.attempt)
            for key, row in rows.items()
        ]
        return e.RetryRequested(request, tuple(again), known)

    def begin_round(self, events: Iterable[e.Event], now: float) -> list[tuple[int, int, bool]]:
        """Begin a round, and return the answer that each submission must get: (accepted, known, is accepted)."""
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
        defined = tasks.keys() | self.accepted.keys()
        if (
            titles.get(run, submission.run_title) != submission.run_title
            or any(self.accepted[key] != tasks[key] for key in known)
            or any((run, d) not in defined for t in submission.tasks for d in t.depends_on)
        ):
            return (0, 0, False)
        titles[run] = submission.run_title
        self.accepted |= tasks
        self.changed_runs.add(run)
        return (len(tasks) - len(known), len(known), True)

    # --- after a round

    def apply(self, out: Iterable[c.Command]) -> None:
        handlers: dict[type, Callable[[Any], None]] = {
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
                handlers[type(command)](command)
        for command in out:
            if isinstance(command, c.RecallAttempts):
                assert not self.workers.heartbeats_lost
                self.lookahead.check_recall(command, self.rows, self.workers)
            if isinstance(command, c.CancelAttempts):
                self._cancel_attempts(
                    command
                )  # the command can precede the one that ends the attempt

    def check_runs(self, out: Iterable[c.Command]) -> None:
        """Check that each changed run without open tasks is completed once, and no other run."""
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
        row.ready_at = row.opened_at  # the store does not keep the time at which it became ready

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
            isinstance(request, e.CancelRequested)
            and request.run == key[0]
            and (request.ids is None or key[1] in request.ids)
            for request in self.requests.values()
        )

    def _set_need(self, command: c.SetNeed) -> None:
        row = self.rows[command.key]
        old, new = row.current_need, command.need
        assert new != old
        assert row.status is S.READY
        assert new.type == old.type
        match command.reason.split()[0]:
            case "attempt":
                highest = max(old.difficulty, min(10, self.workers.best_skill(old)))
                difficulty = min(old.difficulty + row.task.escalate_by, highest)
                assert (new.difficulty, new.requires) == (difficulty, old.requires)
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
        """Check an answer to an operator: commands keep the order of events, so the rows are of that moment."""
        request = self.requests[command.request]
        assert len(set(command.done)) == len(command.done)
        if isinstance(request, e.RetryRequested):
            assert {*command.done, *command.refused} == {again.key for again in request.tasks}
            assert all(self.rows[key].status in {S.READY, S.BLOCKED} for key in command.done)
            for key, reason in command.refused.items():
                assert self._is_refusal_reason(key, reason)
            return
        assert all(self.rows[key].status is S.CANCELLED for key in command.done)
        for key, row in self.rows.items():
            if key[0] == request.run and (request.ids is None or key[1] in request.ids):
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
        """Return whether all dependencies have ended at least once: a retried one does not block again."""
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
        assert self.workers.is_able(worker, row.current_need, has_aged=row.has_aged), (worker, row)
        assert worker.name not in self.workers.suspects
        assert self.workers.departed_at.get(worker_id(worker), 0.0) <= self.now - DEPARTED_SECONDS
        row.status, row.attempt, row.worker = S.ASSIGNED, command.attempt, worker
        row.assigned_at, row.retry_at = self.now, 0.0
        held = [self.rows[key] for key in keys_held_by(worker, self.rows)]
        self.lookahead.check_attempts(worker, held, by_skill=self.workers.by_skill)

    def _start_attempt(self, command: c.StartAttempt) -> None:
        row = self.rows[command.key]
        assert row.status is S.ASSIGNED
        assert row.holder == (command.attempt, *worker_id(command.worker))
        row.status = S.RUNNING

    def _end_attempt(self, command: c.EndAttempt) -> None:
        row = self.rows[command.key]
        assert row.status in {S.ASSIGNED, S.RUNNING}
        assert row.holder == (command.attempt, *worker_id(command.worker))
        if command.result is not None:
            assert self._is_current(command.result)
            assert command.result.outcome is command.outcome
            self.lookahead.record_duration(row, command.result)
        is_past_deadline = (command.reason or "").startswith("its deadline")
        row.failures += command.outcome in {O.FAILED, O.TIMED_OUT} and not is_past_deadline
        row.losses += command.outcome is O.LOST
        assert (command.failures, command.losses) == (row.failures, row.losses)
        possible = self._possible_statuses(command, row, is_past_deadline=is_past_deadline)
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
        self, command: c.EndAttempt, row: OracleRow, *, is_past_deadline: bool
    ) -> set[TaskStatus]:
        """Return the statuses that the task may have after the attempt."""
        if command.result is None:
            return self._possible_statuses_without_result(
                command, row, is_past_deadline=is_past_deadline
            )
        match command.outcome:
            case O.SUCCEEDED:
                return {S.SUCCEEDED}
            case O.FAILED | O.TIMED_OUT:
                final_status = S.FAILED if command.outcome is O.FAILED else S.TIMED_OUT
                return row.statuses_after_failure(final_status, {*command.result.error_types})
            case O.LOST:
                return row.statuses_after_loss()
            case _:
                return {S.READY}

    def _possible_statuses_without_result(
        self, command: c.EndAttempt, row: OracleRow, *, is_past_deadline: bool
    ) -> set[TaskStatus]:
        match command.outcome:
            case O.LOST:
                return row.statuses_after_loss()
            case O.TIMED_OUT:
                assert not self.workers.heartbeats_lost
                assert self.now - self.undisturbed_since >= SLACK
                counted_from = row.opened_at if is_past_deadline else row.assigned_at + SLACK
                assert self.now >= counted_from + (
                    (row.task.deadline if is_past_deadline else row.task.timeout) or inf
                )
                return (
                    {S.TIMED_OUT}
                    if is_past_deadline
                    else row.statuses_after_failure(S.TIMED_OUT, {"OSError"})
                )
            case O.CANCELLED:
                assert self._is_cancel_requested(command.key)
                return {S.CANCELLED}
            case _:
                assert command.outcome is O.RETURNED
                return {S.DEAD_LETTERED, S.READY}  # dead-lettered: undeliverable

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
        assert self.rows[command.key].holder == (command.attempt, *worker_id(command.worker))

    def _record_stale_result(self, command: c.RecordStaleResult) -> None:
        assert not self._is_current(command.result)

    def _cancel_attempts(self, command: c.CancelAttempts) -> None:
        for ref in command.attempts:
            row = self.rows.get((ref.run, ref.id))
            assert row is None or row.holder != (ref.attempt, *worker_id(command.worker))

    def restart_manager(self, now: float) -> list[LiveRow]:
        """Return the rows for the next manager, and forget all that only the previous manager knew."""
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
        """Check that no task waits past its deadline; an attempt may end later by the time of its result."""
        for row in self.rows.values():
            if row.worker is None:
                assert row.status in TERMINAL or self.now < row.deadline
            elif not self.workers.heartbeats_lost:
                assert self.now < max(row.deadline, self.undisturbed_since) + 2 * SLACK + 1.0

    def check_holders(self) -> None:
        """Check that exactly the assigned and running tasks have a worker, and that it is connected."""
        for row in self.rows.values():
            assert (row.worker is not None) == (row.status in {S.ASSIGNED, S.RUNNING})
            assert row.worker is None or worker_id(
                self.workers.connected[row.worker.name]
            ) == worker_id(row.worker)
