"""Tasks whose time has come: deadlines, attempts that take too long, tasks that nobody can do, or that wait long."""

from skillq import timings
from skillq.messages import Outcome, Unroutable
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import is_waiting
from skillq_manager.core.model import Need, TaskEntry, WorkerEntry
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.escalation import for_best_worker, relaxed
from skillq_manager.core.rules.lifecycle import DEAD_LETTERED, RUNNING, TIMED_OUT
from skillq_manager.core.rules.matching import why_unable
from skillq_manager.core.tasks import Tasks
from skillq_manager.core.timers import TimerKind

_AGED_AT_ONCE = 1000  # of each class, so that no sweep takes long


class DueTasks:
    def __init__(self, turn: RoundState, board: Board, tasks: Tasks) -> None:
        self._turn = turn
        self._board = board
        self._tasks = tasks

    def handle_timers(self, *, fleet_is_there: bool = True) -> None:
        """Look at all whose time has come. Before the fleet is there, nobody says that none of it can do a task."""
        whys: dict[Need, str] = {}
        for kind, task in self._tasks.timers.due(self._turn.now):
            if kind is TimerKind.RETRY:
                self._tasks.put_on_board(task)
            elif kind is TimerKind.UNROUTABLE:
                self._unroutable(task, whys, fleet_is_there=fleet_is_there)
            elif task.worker is None:
                self._stop_late(task)
            elif self._turn.has_listened_for(timings.OVERDUE_SLACK_SECONDS):
                self._stop_late(task) if kind is TimerKind.DEADLINE else self._overdue(
                    task, task.worker
                )
            else:  # its result may be on its way
                self._tasks.timers.add_timer(
                    self._turn.now + timings.OVERDUE_SLACK_SECONDS, kind, task
                )

    def _stop_late(self, task: TaskEntry) -> None:
        reason = f"its deadline of {task.terms.deadline:g} s is over"
        self._tasks.end_task(task, Outcome.TIMED_OUT, TIMED_OUT, reason)

    def _overdue(self, task: TaskEntry, worker: WorkerEntry) -> None:
        """The worker should have ended it, and has not said so; its time counts from when it could begin."""
        if task.is_prefetched:
            task.is_prefetched = is_waiting(task, worker)
            has_begun = task.status is RUNNING
            self._tasks.start_timeout(task, task.began_at if has_begun else self._turn.now)
            return
        self._tasks.cancel_attempt(task, worker)
        reason = f"took longer than {task.terms.timeout:g} s"
        self._tasks.end_attempt(task, worker, Outcome.TIMED_OUT, reason=reason)

    def _unroutable(self, task: TaskEntry, whys: dict[Need, str], *, fleet_is_there: bool) -> None:
        """Apply the policy of a task that nobody can do, if that is so, and has been for long enough."""
        since = self._board.unroutable_since(task.need) if fleet_is_there else None
        if since is None or since + task.terms.unroutable_after > self._turn.now:
            self._tasks.check_unroutable_later(task, self._turn.now if since is None else since)
            return
        why = whys.get(task.need)
        if why is None:
            why = whys[task.need] = why_unable(list(self._board.skill_counts), task.need)
        if task.terms.unroutable is Unroutable.REJECT:
            self._board.discard(task)
            self._tasks.set_status(task, DEAD_LETTERED, why)
            self._tasks.close_task(task)
        elif task.terms.unroutable is Unroutable.RELAX:
            self._set_waiting_need(
                task, relaxed(task.need, self._board.skill_counts), f"relaxed: {why}"
            )
        else:
            need = for_best_worker(task.need, self._board.skill_counts)
            self._set_waiting_need(task, need, f"escalated: {why}")

    def age(self, older_than: float) -> None:
        """Let reserved workers take what has waited for so long: not worth a row, the next manager begins anew."""
        for task in self._board.aged(self._turn.now - older_than, _AGED_AT_ONCE):
            self._board.discard(task)
            task.need = task.need._replace(aged=True)
            self._tasks.add_to_board(task)

    def lift_exclusions(self, after: float) -> None:
        """Nobody else has been there for so long: the workers that failed a task may try it again."""
        for task in list(self._board.stuck_by_exclusion(self._turn.now - after)):
            self._set_waiting_need(
                task, task.need._replace(excluded=frozenset()), "nobody else can do it"
            )

    def _set_waiting_need(self, task: TaskEntry, need: Need, reason: str) -> None:
        """A waiting task asks for something else."""
        self._board.discard(task)
        self._tasks.change_need(task, need, reason)
        self._tasks.add_to_board(task)
