"""Tasks that have not ended: ready, assigned, running, ended.

`Tasks` changes the status of tasks, always by `rules.lifecycle.check_transition`, and adds a
command for each change. Attempts are numbered by the core, one number after the other for each
task; see docs/adr/0005-number-attempts-per-store.md.
"""

from collections.abc import Callable, Sequence
from itertools import count

from skillq import timings
from skillq.messages import TERMINAL, Outcome, TaskResult, TaskStatus, Unroutable
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import Lookahead
from skillq_manager.core.model import Need, TaskEntry, TaskKey, WorkerEntry
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules import retry
from skillq_manager.core.rules.escalation import escalated_difficulty
from skillq_manager.core.rules.lifecycle import (
    ASSIGNED,
    BLOCKED,
    CANCELLED,
    FAILED,
    READY,
    RUNNING,
    SUCCEEDED,
    TIMED_OUT,
    check_transition,
)
from skillq_manager.core.timers import TimerKind, Timers

# The error types that a worker reports for a timeout.
_TIMEOUT_ERRORS = ("TimeoutError", "OSError", "Exception", "BaseException")
_SUCCESS = retry.RetryVerdict(SUCCEEDED)
# Constants, because looking up a member of an enum is slow: see `rules.lifecycle`.
_SUCCEEDED, _RETURNED, _WAIT = Outcome.SUCCEEDED, Outcome.RETURNED, Unroutable.WAIT


class Tasks:
    """The tasks that have not ended.

    Each task in `live` is in one place: on the board or in the timers (ready), in the attempts of a
    worker (assigned, running), or in `dependents` (blocked). A task in the backlog is not in
    `live`: only the store has it.
    """

    def __init__(
        self,
        round_state: RoundState,
        board: Board,
        lookahead: Lookahead,
        policy: retry.RetryPolicy,
        chance: Callable[[], float],
    ) -> None:
        self._round = round_state
        self._board = board
        self._lookahead = lookahead
        self._policy = policy
        self._chance = chance
        self.seq = count(1)
        self.live: dict[TaskKey, TaskEntry] = {}
        self.dependents: dict[TaskKey, list[TaskEntry]] = {}  # by the task that they wait for
        self.open: dict[str, int] = {}  # by run, how many tasks have not ended
        self.timers = Timers()

    def open_task(self, task: TaskEntry) -> None:
        """Add a task that has not ended."""
        self.live[task.key] = task
        self.open[task.key[0]] = self.open.get(task.key[0], 0) + 1
        if task.terms.deadline is not None:
            self.timers.add_timer(task.submitted_at + task.terms.deadline, TimerKind.DEADLINE, task)

    # --- ready tasks

    def put_on_board(self, task: TaskEntry) -> None:
        """Put a task on the board that is ready from now on."""
        task.retry_at = None
        task.ready_at = self._round.now
        self.add_to_board(task)

    def add_to_board(self, task: TaskEntry) -> None:
        """Put a task on the board without a change of the time since which it is ready."""
        self._board.add_task(task)
        if task.terms.unroutable is not _WAIT:
            self.check_unroutable_later(task, self._round.now)

    def add_new(self, task: TaskEntry) -> bool:
        """Put a new ready task on the board if there is room; else leave the task to the store.

        Return whether the task is on the board.
        """
        task.ready_at = self._round.now
        if self._board.backlog.full:
            self.evict()
        if not self._board.add_new_task(task):
            self._evict_task(task)
            return False
        if task.terms.unroutable is not _WAIT:
            self.check_unroutable_later(task, self._round.now)
        return True

    def evict(self) -> None:
        """Leave to the store the tasks for which the board has no room."""
        for task in self._board.evict():
            self._evict_task(task)
            self._round.commands.append(c.MoveToBacklog(task.key, task.need, task.priority))

    def _evict_task(self, task: TaskEntry) -> None:
        """Remove a task from memory; the task stays counted in `open`."""
        del self.live[task.key]
        self._round.moved_to_backlog[task.key] = task

    def check_unroutable_later(self, task: TaskEntry, since: float) -> None:
        """Start a timer for the policy of a task that may have been unroutable since `since`."""
        at = max(
            since + task.terms.unroutable_after, self._round.now + timings.UNROUTABLE_CHECK_SECONDS
        )
        self.timers.add_timer(at, TimerKind.UNROUTABLE, task)

    def wait_until(self, task: TaskEntry, at: float) -> None:
        """Keep a ready task off the board until `at`."""
        task.retry_at = at
        self.timers.add_timer(at, TimerKind.RETRY, task)

    # --- attempts

    def assign(self, task: TaskEntry, worker: WorkerEntry) -> None:
        """Give a task to a worker as a new attempt."""
        task.status = check_transition(task.status, ASSIGNED)
        task.attempt += 1
        self._round.commands.append(
            c.Assign(task.key, task.need.type, task.attempt, worker.profile, self._round.now)
        )
        self.add_to_worker(task, worker, self._round.now)

    def add_to_worker(self, task: TaskEntry, worker: WorkerEntry, at: float) -> None:
        """Add the current attempt, assigned at `at`, to the attempts of a worker."""
        task.worker = worker
        task.assigned_at = at
        task.started_at = self._round.now  # for a restored attempt that runs already
        self._lookahead.add_attempt(worker, task)
        self._board.worker_changed(worker)
        self.start_timeout(task, at)

    def start_timeout(self, task: TaskEntry, since: float) -> None:
        """Start a timer for the timeout of the current attempt, if the task has a timeout."""
        if task.terms.timeout is not None:
            self.timers.add_timer(
                since + task.terms.timeout + timings.OVERDUE_SLACK_SECONDS, TimerKind.OVERDUE, task
            )

    def start_attempt(self, task: TaskEntry, worker: WorkerEntry, at: float) -> None:
        """Mark an assigned task as running since `at`; a running task does not change."""
        if task.status is ASSIGNED:
            task.status = check_transition(task.status, RUNNING)
            task.started_at = self._round.now
            self._round.commands.append(
                c.StartAttempt(task.key, task.need.type, task.attempt, worker.profile, at)
            )

    def end_attempt(
        self,
        task: TaskEntry,
        worker: WorkerEntry,
        outcome: Outcome,
        *,
        reason: str | None = None,
        result: TaskResult | None = None,
        verdict: retry.RetryVerdict | None = None,
    ) -> None:
        """End the current attempt, and with it the task, or make the task ready again.

        `verdict` decides which; without it, the retry rule decides.
        """
        verdict = verdict or self._verdict(task, outcome, result)
        if verdict.status is READY and self._is_late(task):
            verdict = retry.RetryVerdict(TIMED_OUT)
        task.status = check_transition(task.status, verdict.status)
        task.worker = None
        self._lookahead.remove_attempt(worker, task)
        worker.recall_pending = worker.recall_pending and outcome is _RETURNED
        self._board.worker_changed(worker)
        retry_at = self._round.now + verdict.delay if verdict.delay else None
        self._round.commands.append(
            c.EndAttempt(
                task.key,
                task.need.type,
                task.attempt,
                worker.profile,
                outcome,
                task.status,
                reason,
                result,
                retry_at,
                task.failures,
                task.losses,
                self._round.now,
            )
        )
        if task.status in TERMINAL:
            self.close_task(task)
            return
        if outcome in {Outcome.FAILED, Outcome.TIMED_OUT}:
            self._escalate(task, worker)
        if retry_at is None:
            self.put_on_board(task)
        else:
            self.wait_until(task, retry_at)

    def _verdict(
        self, task: TaskEntry, outcome: Outcome, result: TaskResult | None
    ) -> retry.RetryVerdict:
        if outcome is _SUCCEEDED:
            return _SUCCESS
        task.failures += outcome in {Outcome.FAILED, Outcome.TIMED_OUT}
        task.losses += outcome is Outcome.LOST
        return retry.decide(
            self._policy,
            task.terms,
            outcome,
            failures=task.failures,
            losses=task.losses,
            error_types=_TIMEOUT_ERRORS if result is None else result.error_types,
            chance=self._chance(),
        )

    def _is_late(self, task: TaskEntry) -> bool:
        """Return whether the deadline of the task is over."""
        deadline = task.terms.deadline
        return deadline is not None and self._round.now >= task.submitted_at + deadline

    def _escalate(self, task: TaskEntry, worker: WorkerEntry) -> None:
        """Ask for more skill, and for another worker than this one if another can do the task."""
        need = task.need
        harder = need._replace(
            difficulty=escalated_difficulty(need, task.terms.escalate_by, self._board.skill_counts),
            excluded=need.excluded | {worker.name},
        )
        capable = (w for w in self._board.capable_workers(harder._replace(excluded=frozenset())))
        if all(w.name in harder.excluded for w in capable):
            harder = harder._replace(excluded=frozenset())
        self.change_need(task, harder, f"attempt {task.attempt} failed with {worker.profile.title}")

    def change_need(self, task: TaskEntry, need: Need, reason: str) -> None:
        """Give a task another need; the task must not be on the board."""
        if need != task.need:
            task.need = need
            self._round.commands.append(c.SetNeed(task.key, need, reason, self._round.now))

    def cancel_attempt(self, task: TaskEntry, worker: WorkerEntry) -> None:
        """Ask the worker to stop the current attempt."""
        self._round.commands.append(
            c.CancelAttempts(worker.profile, self._round.store, (task.ref,))
        )

    # --- the end of tasks

    def end_task(self, task: TaskEntry, outcome: Outcome, status: TaskStatus, reason: str) -> None:
        """End a task in any status; `outcome` is for its current attempt, if a worker has one."""
        if task.worker is not None:
            self.cancel_attempt(task, task.worker)
            verdict = retry.RetryVerdict(status)
            self.end_attempt(task, task.worker, outcome, reason=reason, verdict=verdict)
            return
        self._board.discard_task(task)
        task.retry_at = None
        self.set_status(task, status, reason)
        self.close_task(task)

    def cancel_tasks(self, tasks: Sequence[TaskEntry], reason: str) -> None:
        """Cancel all these tasks, even those that depend on others of them."""
        blocked = [task for task in tasks if task.status is BLOCKED]
        for task in blocked:
            self.set_status(task, CANCELLED, reason)
            self._remove(task)
        for task in tasks:
            if not task.status.is_terminal:
                self.end_task(task, Outcome.CANCELLED, CANCELLED, reason)
        for task in blocked:
            self.resolve(task.key, task.status)

    def set_status(self, task: TaskEntry, status: TaskStatus, reason: str | None) -> None:
        """Change the status of a task that no worker has."""
        task.status = check_transition(task.status, status)
        self._round.commands.append(
            c.SetStatus(task.key, task.need.type, status, reason, task.attempt, self._round.now)
        )

    def close_task(self, task: TaskEntry) -> None:
        """Remove a task that has ended, and resolve its dependents."""
        self._remove(task)
        if task.key in self.dependents:
            self.resolve(task.key, task.status)

    def _remove(self, task: TaskEntry) -> None:
        run = task.key[0]
        del self.live[task.key]
        self._round.ended[task.key] = e.StoredStatus(task.status, task.fingerprint)
        self._round.affected_runs[run] = True
        self.open[run] -= 1
        if not self.open[run]:
            del self.open[run]

    # --- dependencies

    def resolve(self, key: TaskKey, status: TaskStatus) -> None:
        """Unblock or fail the dependents of an ended task; a failed dependent fails its own."""
        resolved = [(key, status)]
        while resolved:
            key, status = resolved.pop()
            for dependent in self.dependents.pop(key, ()):
                if dependent.status is not BLOCKED:
                    continue  # another dependency has failed it
                if is_met(status, dependent):
                    dependent.unmet_dependencies -= 1
                    self.unblock(dependent)
                    continue
                self.set_status(dependent, FAILED, f"dependency {key[1]} {status}")
                self._remove(dependent)
                resolved.append((dependent.key, dependent.status))

    def unblock(self, task: TaskEntry) -> None:
        """Make a blocked task ready if all its dependencies are met."""
        if not task.unmet_dependencies:
            self.set_status(task, READY, None)
            self.put_on_board(task)


def is_met(dependency: TaskStatus, dependent: TaskEntry) -> bool:
    """Return whether a dependency in this status lets its dependent start."""
    if dependency is SUCCEEDED:
        return True
    return dependency.is_terminal and dependent.terms.runs_anyway
