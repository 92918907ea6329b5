"""The state of the manager's core; its method `handle` turns events into commands.

`State` handles events by their type with the parts of the core: submissions, operations, workers,
tasks. At the end of each round it handles due timers, matches ready tasks with free workers, and
returns the commands. The state has only tasks that have not ended and workers that are connected;
what has ended is in the store.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

from skillq.messages import (
    AttemptRef,
    Connect,
    Disconnect,
    Heartbeat,
    Outcome,
    Progress,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerProfile,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import Lookahead, LookaheadPolicy
from skillq_manager.core.dispatch.recall import Recalls
from skillq_manager.core.due import DueTasks
from skillq_manager.core.entries import Entries
from skillq_manager.core.model import TaskEntry, TaskKey, WorkerEntry
from skillq_manager.core.operations import Operations
from skillq_manager.core.restore import Restore
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.leases import LeasePolicy
from skillq_manager.core.rules.matching import Policy
from skillq_manager.core.rules.retry import RetryPolicy, RetryVerdict
from skillq_manager.core.submissions import Submissions
from skillq_manager.core.tasks import Tasks
from skillq_manager.core.workers import Workers

BACKLOG_KEEP = 2000  # tasks with one need that stay in memory when the store keeps the rest
BACKLOG_FROM = 20_000  # waiting tasks, of all needs, from which on the store keeps some of them
_EMPTY_BACKLOG = e.BacklogSummary((), {})
_NO_TASKS: Mapping[TaskKey, e.StoredStatus] = {}
_WITH_DURATION = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})
_GIVEN_BACK = frozenset({Outcome.RETURNED, Outcome.CANCELLED})
_REFUSED = Outcome.REFUSED  # see `rules.lifecycle` for why this is a constant


class State:
    """The core of the manager.

    `chance` returns random numbers in [0, 1), for the jitter of retries. `expected_workers`:
    nothing is assigned before so many workers are connected. `store` is the id of the store, which
    numbers the attempts. Once more than `backlog_from` tasks wait, about `backlog_keep` tasks with
    one need stay in memory, and the store keeps the rest; with `backlog_keep` 0 all tasks stay in
    memory.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        chance: Callable[[], float],
        expected_workers: int = 0,
        leases: LeasePolicy | None = None,
        retries: RetryPolicy | None = None,
        lookahead: LookaheadPolicy | None = None,
        store: str = "",
        backlog_keep: int = 0,
        backlog_from: int = 0,
    ) -> None:
        self._round = RoundState(store)
        self.lookahead = Lookahead(lookahead or LookaheadPolicy())
        self.board = Board(policy, self.lookahead, backlog_keep, backlog_from)
        self.tasks = Tasks(
            self._round, self.board, self.lookahead, retries or RetryPolicy(), chance
        )
        self._recalls = Recalls(self._round, self.board, self.lookahead.policy)
        self._entries = Entries(self._round, self.tasks)
        self._submissions = Submissions(self._round, self.tasks, self._entries)
        self._operations = Operations(self._round, self.board, self.tasks, self._entries)
        self._restore = Restore(self._round, self.board, self.tasks, self._entries)
        self._due = DueTasks(self._round, self.board, self.tasks)
        self.workers = Workers(
            self._round, self.board, self.tasks, self._due, leases or LeasePolicy()
        )
        self.expected_workers = expected_workers
        self.refills: list[c.RefillRequest] = []  # of the last round; answered before the next one
        self._handlers: dict[type, Callable[[Any], None]] = {
            e.SubmissionReceived: self._submissions.submit,
            e.SubmissionInvalid: self._submissions.refuse,
            e.CancelRequested: self._operations.cancel,
            e.RetryRequested: self._operations.retry,
            e.BacklogPage: self._restore.refill,
            e.HeartbeatsLost: self.workers.on_heartbeats_lost,
            e.HeartbeatsRecovered: self.workers.on_heartbeats_recovered,
            Connect: self.workers.on_connect,
            Heartbeat: self.workers.on_heartbeat,
            Disconnect: self.workers.on_disconnect,
            e.AssignmentReturned: self.workers.on_assignment_returned,
            TaskResults: self._on_results,
            Progress: self._on_progress,
            e.AssignmentUndeliverable: self._on_assignment_undeliverable,
        }

    def handle(self, events: Iterable[e.Event], now: float) -> list[c.Command]:
        """Handle the events of one round, and return the commands that follow from them.

        `now` is in seconds and must never go back.
        """
        self._round.start(now)
        for event in events:
            self._handlers[type(event)](event)
        return self._finish_round()

    # A restore comes once, before the first round: `begin_restore`, `restore` for each page,
    # `end_restore`.

    @property
    def keeps_backlog(self) -> bool:
        """Return whether ready tasks may stay in the store; if not, `restore` needs all tasks."""
        return self.board.backlog.keep > 0

    def begin_restore(self, workers: Iterable[WorkerProfile], last_seq: int, now: float) -> None:
        """Add the workers of an earlier manager; `last_seq` is the `seq` of its last task."""
        self._round.start(now)
        self._round.listening_since = now
        self.workers.restore(workers)
        self.tasks.seq = count(last_seq + 1)

    def restore(self, rows: Iterable[e.LiveTask]) -> None:
        """Add a page of stored tasks."""
        self._restore.add_tasks(rows, self.workers.workers)

    def unresolved_dependencies(self) -> set[TaskKey]:
        """Return the tasks whose stored status `end_restore` needs if there is a backlog."""
        return self._restore.unresolved_dependencies()

    def end_restore(
        self,
        backlog: e.BacklogSummary = _EMPTY_BACKLOG,
        known: Mapping[TaskKey, e.StoredStatus] = _NO_TASKS,
    ) -> list[c.Command]:
        """Return the commands that follow from the restored tasks."""
        self._restore.finish(backlog, known)
        if any(task.attempt for task in self.tasks.live.values()):
            self.expected_workers = 0  # the earlier manager had enough workers
        return self._finish_round()

    def _finish_round(self) -> list[c.Command]:
        self.workers.sweep()
        self._due.handle_timers(workers_complete=not self.expected_workers)
        self._match()
        self.board.update_tiers()
        backlog = self.board.backlog
        self.refills = [
            c.RefillRequest(*missing, backlog.keep) for missing in backlog.wanted_refills()
        ]
        if not self.refills:
            self._recalls.recall_overdue()
        self._round.commands.extend(
            c.CompleteRun(run, self._round.now, was_complete=not changed)
            for run, changed in self._round.affected_runs.items()
            if run not in self.tasks.open
        )
        return self._round.commands

    def next_deadline(self) -> float | None:
        """Return when `handle` must be called even without events; None: only with events."""
        sweep = self.workers.next_sweep if self.workers.workers else None
        due = (self.tasks.timers.next_at(), self._recalls.next_check_at(), sweep)
        return min((at for at in due if at is not None), default=None)

    @property
    def is_idle(self) -> bool:
        """Return whether all tasks have ended."""
        return not self.tasks.open

    def _match(self) -> None:
        if len(self.workers.workers) < self.expected_workers:
            return
        self.expected_workers = 0  # from now on, workers may come and go
        while (match := self.board.next_match()) is not None:
            self.tasks.assign(*match)

    def _on_results(self, event: TaskResults) -> None:
        worker = self._reporting_worker(event)
        for result in event.results:
            task = self._current_task(result, worker)
            if task is None or worker is None:
                self._round.commands.append(
                    c.RecordStaleResult(result, event.worker, event.incarnation)
                )
                continue
            outcome = result.outcome
            if outcome is _REFUSED:
                self.workers.on_type_refused(worker, task.need.type)
            if outcome in _GIVEN_BACK:
                self.workers.on_attempt_returned(worker, task)
            if result.started_at is not None and outcome in _WITH_DURATION:
                self._learn_duration(task.need.type, result)
            self.tasks.end_attempt(task, worker, outcome, reason=result.error, result=result)

    def _learn_duration(self, task_type: str, result: TaskResult) -> None:
        if self.lookahead.record_duration(task_type, result.started_at, result.finished_at):
            self.board.recheck_held_up()

    def _on_progress(self, event: Progress) -> None:
        worker = self._reporting_worker(event)
        for item in event.items:
            task = self._current_task(item, worker)
            if task is not None and worker is not None:
                self.tasks.start_attempt(task, worker, item.at or self._round.now)

    def _on_assignment_undeliverable(self, event: e.AssignmentUndeliverable) -> None:
        task = self.tasks.live.get((event.attempt.run, event.attempt.id))
        if task is not None and task.worker is not None and task.attempt == event.attempt.attempt:
            dead_letter = RetryVerdict(TaskStatus.DEAD_LETTERED)
            self.tasks.end_attempt(
                task, task.worker, Outcome.RETURNED, reason=event.reason, verdict=dead_letter
            )

    def _reporting_worker(self, event: TaskResults | Progress) -> WorkerEntry | None:
        """Return the worker that sent this event, or None if it is not connected.

        Also None if another store numbered the attempts of the event.
        """
        if event.store != self._round.store:
            return None
        return self.workers.current_worker(event.worker, event.incarnation)

    def _current_task(self, ref: AttemptRef, worker: WorkerEntry | None) -> TaskEntry | None:
        """Return the task if `ref` is its current attempt and this worker has the attempt."""
        task = self.tasks.live.get((ref.run, ref.id))
        if task is None or task.worker is not worker or task.attempt != ref.attempt:
            return None
        return None if worker is None else task

    def is_current(self, ref: AttemptRef, worker: str, incarnation: str) -> bool:
        """Return whether this attempt is current and this incarnation of a worker has it."""
        return self._current_task(ref, self.workers.current_worker(worker, incarnation)) is not None
