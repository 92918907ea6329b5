"""Tasks for which something is due because time has passed.

Due are: retries after a back-off, deadlines, timeouts that the worker has not reported, the
policies of unroutable tasks, ageing, and the end of exclusions. See
docs/adr/0010-put-exclusion-and-escalation-into-the-need.md and
docs/adr/0011-reserve-workers-with-ageing.md.
"""

from skillq import timings
from skillq.messages import Outcome, Unroutable
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import waits_for_slot
from skillq_manager.core.model import Need, TaskEntry, WorkerEntry
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.escalation import need_for_best_worker, relaxed_need
from skillq_manager.core.rules.lifecycle import DEAD_LETTERED, RUNNING, TIMED_OUT
from skillq_manager.core.rules.matching import why_unable
from skillq_manager.core.tasks import Tasks
from skillq_manager.core.timers import TimerKind

_AGED_AT_ONCE = 1000  # tasks of each task queue, so that no sweep takes long


class DueTasks:
    """Handles tasks whose timers are due or that have waited long."""

    def __init__(self, round_state: RoundState, board: Board, tasks: Tasks) -> None:
        self._round = round_state
        self._board = board
        self._tasks = tasks

    def handle_timers(self, *, workers_complete: bool = True) -> None:
        """Handle all timers that are due.

        No task counts as unroutable before `workers_complete`, when all expected workers are
        connected.
        """
        reasons: dict[Need, str] = {}
        for kind, task in self._tasks.timers.due(self._round.now):
            if kind is TimerKind.RETRY:
                self._tasks.put_on_board(task)
            elif kind is TimerKind.UNROUTABLE:
                self._handle_unroutable(task, reasons, workers_complete=workers_complete)
            elif task.worker is None:
                self._end_late_task(task)
            elif self._round.has_listened_for(timings.OVERDUE_SLACK_SECONDS):
                self._end_late_task(task) if kind is TimerKind.DEADLINE else self._handle_overdue(
                    task, task.worker
                )
            else:  # the result may be on its way
                self._tasks.timers.add_timer(
                    self._round.now + timings.OVERDUE_SLACK_SECONDS, kind, task
                )

    def _end_late_task(self, task: TaskEntry) -> None:
        reason = f"its deadline of {task.terms.deadline:g} s is over"
        self._tasks.end_task(task, Outcome.TIMED_OUT, TIMED_OUT, reason)

    def _handle_overdue(self, task: TaskEntry, worker: WorkerEntry) -> None:
        """Time out an attempt whose end the worker should have reported.

        The timeout of a prefetched attempt starts again, from when the attempt could start.
        """
        if task.is_prefetched:
            task.is_prefetched = waits_for_slot(task, worker)
            has_started = task.status is RUNNING
            self._tasks.start_timeout(task, task.started_at if has_started else self._round.now)
            return
        self._tasks.cancel_attempt(task, worker)
        reason = f"took longer than {task.terms.timeout:g} s"
        self._tasks.end_attempt(task, worker, Outcome.TIMED_OUT, reason=reason)

    def _handle_unroutable(
        self, task: TaskEntry, reasons: dict[Need, str], *, workers_complete: bool
    ) -> None:
        """Apply the policy of a task that no worker has been able to do for long enough."""
        since = self._board.unroutable_since(task.need) if workers_complete else None
        if since is None or since + task.terms.unroutable_after > self._round.now:
            self._tasks.check_unroutable_later(task, self._round.now if since is None else since)
            return
        reason = reasons.get(task.need)
        if reason is None:
            reason = reasons[task.need] = why_unable(list(self._board.skill_counts), task.need)
        if task.terms.unroutable is Unroutable.REJECT:
            self._board.discard_task(task)
            self._tasks.set_status(task, DEAD_LETTERED, reason)
            self._tasks.close_task(task)
        elif task.terms.unroutable is Unroutable.RELAX:
            need = relaxed_need(task.need, self._board.skill_counts)
            self._change_waiting_need(task, need, f"relaxed: {reason}")
        else:
            need = need_for_best_worker(task.need, self._board.skill_counts)
            self._change_waiting_need(task, need, f"escalated: {reason}")

    def age(self, older_than: float) -> None:
        """Let reserved workers take tasks that have been ready for more than `older_than` seconds.

        The store does not record ageing: the next manager counts the waiting time from 0.
        """
        for task in self._board.tasks_to_age(self._round.now - older_than, _AGED_AT_ONCE):
            self._board.discard_task(task)
            task.need = task.need._replace(aged=True)
            self._tasks.add_to_board(task)

    def lift_exclusions(self, after: float) -> None:
        """Let excluded workers take tasks that no other worker could do for `after` seconds."""
        for task in list(self._board.stuck_by_exclusion(self._round.now - after)):
            need = task.need._replace(excluded=frozenset())
            self._change_waiting_need(task, need, "no other worker can do it")

    def _change_waiting_need(self, task: TaskEntry, need: Need, reason: str) -> None:
        self._board.discard_task(task)
        self._tasks.change_need(task, need, reason)
        self._tasks.add_to_board(task)
