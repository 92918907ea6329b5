"""The manager's state and the one method that changes it: events in, commands out.

It remembers only tasks that have not ended and workers that are there; what has ended is in the store.
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
from skillq_manager.core.events import LiveTask
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

BACKLOG_KEEP = 2000  # tasks with one need that are in memory where the store keeps the rest
BACKLOG_FROM = (
    20_000  # tasks that may wait in memory, of all needs, before any of them goes to the store
)
_NO_SHELF = e.BacklogSummary((), {})
_NOTHING: Mapping[TaskKey, e.StoredStatus] = {}
_DONE = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})
_HANDED_BACK = frozenset({Outcome.RETURNED, Outcome.CANCELLED})
_REFUSED = Outcome.REFUSED  # a name, for the reason that those in `lifecycle` have


class State:
    """`chance` returns random numbers in [0, 1), for the jitter of retries; `store` names what numbers attempts.

    `head`: once more than `crowd` tasks wait, of those with one need only about so many stay here, and the store
    keeps the rest; 0: all stay here.
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
        head: int = 0,
        crowd: int = 0,
    ) -> None:
        self._round = RoundState(store)
        self.lookahead = Lookahead(lookahead or LookaheadPolicy())
        self.board = Board(policy, self.lookahead, head, crowd)
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
        self.refills: list[
            c.RefillRequest
        ] = []  # what the last turn asks for, before there is another
        self._handlers: dict[type, Callable[[Any], None]] = {
            e.SubmissionReceived: self._submissions.submit,
            e.SubmissionInvalid: self._submissions.refuse,
            e.CancelRequested: self._operations.cancel,
            e.RetryRequested: self._operations.retry,
            e.BacklogPage: self._restore.refill,
            e.HeartbeatsLost: self.workers.on_heartbeats_lost,
            e.HeartbeatsRecovered: self.workers.on_heartbeats_recovered,
            Connect: self.workers.connect,
            Heartbeat: self.workers.heartbeat,
            Disconnect: self.workers.disconnect,
            e.AssignmentReturned: self.workers.on_assignment_returned,
            TaskResults: self._results,
            Progress: self._progress,
            e.AssignmentUndeliverable: self._undeliverable,
        }

    def handle(self, events: Iterable[e.Event], now: float) -> list[c.Command]:
        """Take in what has happened up to `now` (seconds, never going back), and decide what is to be done."""
        self._round.start(now)
        for event in events:
            self._handlers[type(event)](event)
        return self._finish_round()

    # Taking over from an earlier manager, once, before anything else: begin, tasks page by page, end.

    @property
    def keeps_backlog(self) -> bool:
        """Whether it leaves tasks to the store; else it has to be given all."""
        return self.board.backlog.keep > 0

    def begin_restore(self, workers: Iterable[WorkerProfile], last_seq: int, now: float) -> None:
        self._round.start(now)
        self._round.listening_since = now
        self.workers.restore(workers)
        self.tasks.seq = count(last_seq + 1)

    def restore(self, rows: Iterable[LiveTask]) -> None:
        self._restore.add_tasks(rows, self.workers.workers)

    def unresolved_dependencies(self) -> set[TaskKey]:
        """Of these tasks `end_restore` wants to know where they are, if there is a shelf."""
        return self._restore.unresolved_dependencies()

    def end_restore(
        self,
        shelf: e.BacklogSummary = _NO_SHELF,
        known: Mapping[TaskKey, e.StoredStatus] = _NOTHING,
    ) -> list[c.Command]:
        """What follows from it."""
        self._restore.finish(shelf, known)
        if any(task.attempt for task in self.tasks.live.values()):
            self.expected_workers = 0  # they had been there
        return self._finish_round()

    def _finish_round(self) -> list[c.Command]:
        self.workers.sweep()
        self._due.handle_timers(fleet_is_there=not self.expected_workers)
        self._match()
        self.board.settle()
        shelves = self.board.backlog
        self.refills = [c.RefillRequest(*where, shelves.keep) for where in shelves.wanted()]
        if not self.refills:
            self._recalls.look()
        self._round.commands.extend(
            c.CompleteRun(run, self._round.now, was_complete=not moved)
            for run, moved in self._round.runs.items()
            if run not in self.tasks.open
        )
        return self._round.commands

    def next_deadline(self) -> float | None:
        """When `handle` has something to do even if nothing happens."""
        sweep = self.workers.next_sweep if self.workers.workers else None
        due = (self.tasks.timers.next_at(), self._recalls.next_look(), sweep)
        return min((at for at in due if at is not None), default=None)

    @property
    def is_idle(self) -> bool:
        """No task is left that has not ended."""
        return not self.tasks.open

    def _match(self) -> None:
        if len(self.workers.workers) < self.expected_workers:
            return
        self.expected_workers = 0  # from now on they may come and go
        while (match := self.board.next_match()) is not None:
            self.tasks.assign(*match)

    def _results(self, event: TaskResults) -> None:
        speaker = self._reporting_worker(event)
        for result in event.results:
            task = self._current_task(result, speaker)
            if task is None or speaker is None:
                self._round.commands.append(
                    c.RecordStaleResult(result, event.worker, event.incarnation)
                )
                continue
            outcome = result.outcome
            if outcome is _REFUSED:
                self.workers.on_type_refused(speaker, task.need.type)
            if outcome in _HANDED_BACK:
                self.workers.on_attempt_returned(speaker, task)
            if result.started_at is not None and outcome in _DONE:
                self._learn(task.need.type, result)
            self.tasks.end_attempt(task, speaker, outcome, reason=result.error, result=result)

    def _learn(self, task_type: str, result: TaskResult) -> None:
        if self.lookahead.learn(task_type, result.started_at, result.finished_at):
            self.board.reconsider()

    def _progress(self, event: Progress) -> None:
        speaker = self._reporting_worker(event)
        for item in event.items:
            task = self._current_task(item, speaker)
            if task is not None and speaker is not None:
                self.tasks.start_attempt(task, speaker, item.at or self._round.now)

    def _undeliverable(self, event: e.AssignmentUndeliverable) -> None:
        task = self.tasks.live.get((event.attempt.run, event.attempt.id))
        if task is not None and task.worker is not None and task.attempt == event.attempt.attempt:
            given_up = RetryVerdict(TaskStatus.DEAD_LETTERED)
            self.tasks.end_attempt(
                task, task.worker, Outcome.RETURNED, reason=event.reason, verdict=given_up
            )

    def _reporting_worker(self, event: TaskResults | Progress) -> WorkerEntry | None:
        """Who says it; None: nobody who is there, or of attempts that another store has numbered."""
        if event.store != self._round.store:
            return None
        return self.workers.current(event.worker, event.incarnation)

    def _current_task(self, ref: AttemptRef, speaker: WorkerEntry | None) -> TaskEntry | None:
        """The task, if this is its current attempt, and this worker's."""
        task = self.tasks.live.get((ref.run, ref.id))
        if task is None or task.worker is not speaker or task.attempt != ref.attempt:
            return None
        return None if speaker is None else task

    def is_current(self, ref: AttemptRef, worker: str, incarnation: str) -> bool:
        """Whether this attempt is still this worker's."""
        return self._current_task(ref, self.workers.current(worker, incarnation)) is not None
