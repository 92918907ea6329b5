"""Tasks that have not ended: given out, ended, tried again, given up."""

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
from skillq_manager.core.rules.escalation import escalated
from skillq_manager.core.rules.lifecycle import (
    ASSIGNED,
    BLOCKED,
    CANCELLED,
    FAILED,
    READY,
    RUNNING,
    SUCCEEDED,
    TIMED_OUT,
    check,
)
from skillq_manager.core.timers import TimerKind, Timers

_TIMEOUT = ("TimeoutError", "OSError", "Exception", "BaseException")  # as a worker would have said
_DONE = retry.RetryVerdict(SUCCEEDED)
# Names, for the reason that those in `lifecycle` have.
_WENT_WELL, _RETURNED, _WAIT = Outcome.SUCCEEDED, Outcome.RETURNED, Unroutable.WAIT


class Tasks:
    """Each task is in one place: `board` or `timers` (ready), a worker's `holds`, or waiting in `dependents`.

    Or on the shelf: then it is not `live`, and only the store knows it.
    """

    def __init__(
        self,
        turn: RoundState,
        board: Board,
        lookahead: Lookahead,
        policy: retry.RetryPolicy,
        chance: Callable[[], float],
    ) -> None:
        self._turn = turn
        self._board = board
        self._lookahead = lookahead
        self._policy = policy
        self._chance = chance
        self.seq = count(1)
        self.live: dict[TaskKey, TaskEntry] = {}
        self.dependents: dict[TaskKey, list[TaskEntry]] = {}
        self.open: dict[str, int] = {}  # by run, how many have not ended
        self.timers = Timers()

    def open_task(self, task: TaskEntry) -> None:
        """A task is live from here on."""
        self.live[task.key] = task
        self.open[task.key[0]] = self.open.get(task.key[0], 0) + 1
        if task.terms.deadline is not None:
            self.timers.add_timer(task.submitted_at + task.terms.deadline, TimerKind.DEADLINE, task)

    def put_on_board(self, task: TaskEntry) -> None:
        task.retry_at = None
        task.ready_at = self._turn.now
        self.add_to_board(task)

    def add_new(self, task: TaskEntry) -> bool:
        """A new task is ready. Whether it is on the board; else it is left to the store."""
        task.ready_at = self._turn.now
        if self._board.backlog.full:
            self.evict()
        if not self._board.add_new(task):
            self._evict_task(task)
            return False
        if task.terms.unroutable is not _WAIT:
            self.check_unroutable_later(task, self._turn.now)
        return True

    def evict(self) -> None:
        """Leave to the store what the board has no room for."""
        for task in self._board.evict():
            self._evict_task(task)
            self._turn.commands.append(c.MoveToBacklog(task.key, task.need, task.priority))

    def _evict_task(self, task: TaskEntry) -> None:
        """It is open, but no longer live."""
        del self.live[task.key]
        self._turn.moved_to_backlog[task.key] = task

    def add_to_board(self, task: TaskEntry) -> None:
        self._board.add_task(task)
        if task.terms.unroutable is not _WAIT:
            self.check_unroutable_later(task, self._turn.now)

    def check_unroutable_later(self, task: TaskEntry, since: float) -> None:
        """Apply the policy of a task that nobody can do, if that has been so since then."""
        at = max(
            since + task.terms.unroutable_after, self._turn.now + timings.UNROUTABLE_CHECK_SECONDS
        )
        self.timers.add_timer(at, TimerKind.UNROUTABLE, task)

    # --- attempts

    def assign(self, task: TaskEntry, worker: WorkerEntry) -> None:
        task.status = check(task.status, ASSIGNED)
        task.attempt += 1
        self._turn.commands.append(
            c.Assign(task.key, task.need.type, task.attempt, worker.profile, self._turn.now)
        )
        self.give_to(task, worker, self._turn.now)

    def give_to(self, task: TaskEntry, worker: WorkerEntry, at: float) -> None:
        """The worker has the current attempt, since `at`."""
        task.worker = worker
        task.assigned_at = at
        task.began_at = self._turn.now  # if it has
        self._lookahead.add_attempt(worker, task)
        self._board.worker_changed(worker)
        self.start_timeout(task, at)

    def start_timeout(self, task: TaskEntry, since: float) -> None:
        if task.terms.timeout is not None:
            self.timers.add_timer(
                since + task.terms.timeout + timings.OVERDUE_SLACK_SECONDS, TimerKind.OVERDUE, task
            )

    def start_attempt(self, task: TaskEntry, worker: WorkerEntry, at: float) -> None:
        if task.status is ASSIGNED:
            task.status = check(task.status, RUNNING)
            task.began_at = self._turn.now
            self._turn.commands.append(
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
        """The current attempt has ended: the task has, too, or it is ready again (unless `verdict` says)."""
        verdict = verdict or self._verdict(task, outcome, result)
        if verdict.status is READY and self._is_late(task):
            verdict = retry.RetryVerdict(TIMED_OUT)
        task.status = check(task.status, verdict.status)
        task.worker = None
        self._lookahead.remove_attempt(worker, task)
        worker.recall_pending = worker.recall_pending and outcome is _RETURNED
        self._board.worker_changed(worker)
        retry_at = self._turn.now + verdict.delay if verdict.delay else None
        self._turn.commands.append(
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
                self._turn.now,
            )
        )
        if task.status in TERMINAL:
            self.close_task(task)
            return
        if outcome in {Outcome.FAILED, Outcome.TIMED_OUT}:
            self._escalate(task, worker)
        self._make_ready(task, retry_at)

    def _verdict(
        self, task: TaskEntry, outcome: Outcome, result: TaskResult | None
    ) -> retry.RetryVerdict:
        if outcome is _WENT_WELL:
            return _DONE
        task.failures += outcome in {Outcome.FAILED, Outcome.TIMED_OUT}
        task.losses += outcome is Outcome.LOST
        return retry.decide(
            self._policy,
            task.terms,
            outcome,
            failures=task.failures,
            losses=task.losses,
            error_types=_TIMEOUT if result is None else result.error_types,
            chance=self._chance(),
        )

    def _escalate(self, task: TaskEntry, worker: WorkerEntry) -> None:
        """The next attempt needs more skill, and another worker where there is one."""
        need = task.need
        harder = need._replace(
            difficulty=escalated(need, task.terms.escalate_by, self._board.skill_counts),
            excluded=need.excluded | {worker.name},
        )
        others = (w for w in self._board.capable(harder._replace(excluded=frozenset())))
        if all(w.name in harder.excluded for w in others):
            harder = harder._replace(excluded=frozenset())
        self.change_need(task, harder, f"attempt {task.attempt} failed with {worker.profile.title}")

    def change_need(self, task: TaskEntry, need: Need, reason: str) -> None:
        if need != task.need:
            task.need = need
            self._turn.commands.append(c.SetNeed(task.key, need, reason, self._turn.now))

    def _make_ready(self, task: TaskEntry, retry_at: float | None) -> None:
        if retry_at is None:
            self.put_on_board(task)
        else:
            self.wait_until(task, retry_at)

    def wait_until(self, task: TaskEntry, at: float) -> None:
        """Ready, but not before."""
        task.retry_at = at
        self.timers.add_timer(at, TimerKind.RETRY, task)

    def _is_late(self, task: TaskEntry) -> bool:
        """Whether its deadline is over."""
        deadline = task.terms.deadline
        return deadline is not None and self._turn.now >= task.submitted_at + deadline

    # --- the end

    def end_task(self, task: TaskEntry, outcome: Outcome, status: TaskStatus, reason: str) -> None:
        """End a task wherever it is; a worker that has it is told to give it up."""
        if task.worker is not None:
            self.cancel_attempt(task, task.worker)
            verdict = retry.RetryVerdict(status)
            self.end_attempt(task, task.worker, outcome, reason=reason, verdict=verdict)
            return
        self._board.discard(task)
        task.retry_at = None
        self.set_status(task, status, reason)
        self.close_task(task)

    def cancel_tasks(self, tasks: Sequence[TaskEntry], reason: str) -> None:
        """End all of these as cancelled, even those that depend on others of them."""
        blocked = [task for task in tasks if task.status is BLOCKED]
        for task in blocked:
            self.set_status(task, CANCELLED, reason)
            self._remove(task)
        for task in tasks:
            if not task.status.is_terminal:
                self.end_task(task, Outcome.CANCELLED, CANCELLED, reason)
        for task in blocked:
            self.resolve(task.key, task.status)

    def cancel_attempt(self, task: TaskEntry, worker: WorkerEntry) -> None:
        self._turn.commands.append(c.CancelAttempts(worker.profile, self._turn.store, (task.ref,)))

    def close_task(self, task: TaskEntry) -> None:
        self._remove(task)
        if task.key in self.dependents:
            self.resolve(task.key, task.status)

    def _remove(self, task: TaskEntry) -> None:
        run = task.key[0]
        del self.live[task.key]
        self._turn.ended[task.key] = e.StoredStatus(task.status, task.fingerprint)
        self._turn.runs[run] = True
        self.open[run] -= 1
        if not self.open[run]:
            del self.open[run]

    def resolve(self, key: TaskKey, status: TaskStatus) -> None:
        """Free the dependents of a task that succeeded; fail those of one that did not, and theirs."""
        resolved = [(key, status)]
        while resolved:
            key, status = resolved.pop()
            for dependent in self.dependents.pop(key, ()):
                if dependent.status is not BLOCKED:
                    continue  # another dependency has failed it
                if is_met(status, dependent):
                    dependent.waits_for -= 1
                    self.unblock(dependent)
                    continue
                self.set_status(dependent, FAILED, f"dependency {key[1]} {status}")
                self._remove(dependent)
                resolved.append((dependent.key, dependent.status))

    def unblock(self, task: TaskEntry) -> None:
        """It is ready if it waits for nothing more."""
        if not task.waits_for:
            self.set_status(task, READY, None)
            self.put_on_board(task)

    def set_status(self, task: TaskEntry, status: TaskStatus, reason: str | None) -> None:
        task.status = check(task.status, status)
        self._turn.commands.append(
            c.SetStatus(task.key, task.need.type, status, reason, task.attempt, self._turn.now)
        )


def is_met(dependency: TaskStatus, dependent: TaskEntry) -> bool:
    """Whether a dependency in this status holds its dependent up no longer."""
    if dependency is SUCCEEDED:
        return True
    return dependency.is_terminal and dependent.terms.runs_anyway
