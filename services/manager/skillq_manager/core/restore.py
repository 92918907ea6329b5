"""Tasks from the store: the tasks of an earlier manager, and pages of the backlog.

A restore has three steps. `add_tasks` adds the stored tasks page by page. `unresolved_dependencies`
names the tasks whose status the store must still say. `finish` counts dependencies, and ends the
attempts whose workers are gone. See docs/adr/0016-keep-deep-backlogs-in-the-store.md.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from skillq.messages import MIN_LEVEL, Outcome, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.entries import Entries, KnownTasks
from skillq_manager.core.model import TaskEntry, TaskKey, WorkerEntry
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.lifecycle import ASSIGNED, BLOCKED, READY
from skillq_manager.core.tasks import Tasks


class Restore:
    """Adds stored tasks to the state."""

    def __init__(
        self, round_state: RoundState, board: Board, tasks: Tasks, entries: Entries
    ) -> None:
        self._round = round_state
        self._board = board
        self._tasks = tasks
        self._entries = entries
        self._blocked: list[tuple[TaskEntry, tuple[str, ...]]] = []  # with the dependencies
        self._lost: list[tuple[TaskEntry, WorkerEntry]] = []
        self._overcommitted: dict[WorkerEntry, None] = {}  # in the order of their first such task

    def add_tasks(self, rows: Iterable[e.LiveTask], workers: Mapping[str, WorkerEntry]) -> None:
        """Add stored tasks; an attempt is lost if none of these workers has it."""
        for row in rows:
            entry = self._entries.from_live_task(row)
            self._tasks.open_task(entry)
            if entry.status is BLOCKED:
                self._blocked.append((entry, row.like.depends_on))
            elif entry.status is READY and row.retry_at is not None:
                self._tasks.wait_until(entry, row.retry_at)
            elif entry.status is READY:
                self._tasks.put_on_board(entry)
            else:
                self._add_attempt(entry, row, workers.get(row.worker or ""))

    def _add_attempt(self, entry: TaskEntry, row: e.LiveTask, worker: WorkerEntry | None) -> None:
        if worker is None or worker.incarnation != row.incarnation:
            worker = _departed_worker(row, self._round.now)
            self._lost.append((entry, worker))
        elif entry.status is ASSIGNED:
            # The earlier manager may have died between storing and sending the assignment.
            self._round.commands.append(c.Resend(entry.key, entry.attempt, worker.profile))
        self._tasks.add_to_worker(entry, worker, row.assigned_at or self._round.now)
        if entry.is_prefetched:
            self._overcommitted[worker] = None

    def unresolved_dependencies(self) -> set[TaskKey]:
        """Return the dependencies of blocked tasks that have ended or are in the backlog."""
        named = {(entry.key[0], d) for entry, depends_on in self._blocked for d in depends_on}
        return named - self._tasks.live.keys()

    def finish(self, backlog: e.BacklogSummary, known: KnownTasks) -> None:
        """Finish the restore after the last page; `known` has the unresolved dependencies."""
        self._open_backlogs(backlog)
        in_backlog = {key for key, stored in known.items() if not stored.status.is_terminal}
        for entry, depends_on in self._blocked:
            for other in depends_on:
                key = (entry.key[0], other)
                if key in self._tasks.live or key in in_backlog:
                    entry.unmet_dependencies += 1
                    self._tasks.dependents.setdefault(key, []).append(entry)
            # The other dependencies have succeeded: a failed one would have failed this task.
            if not entry.unmet_dependencies:
                self._tasks.unblock(entry)
        self._blocked.clear()
        for entry, worker in self._lost:
            reason = "its worker is not connected any more"
            self._tasks.end_attempt(entry, worker, Outcome.LOST, reason=reason)
        self._lost.clear()
        for worker in self._overcommitted:
            _sort_attempts(worker)
        self._overcommitted.clear()

    def _open_backlogs(self, backlog: e.BacklogSummary) -> None:
        """Count the tasks in the backlog as open, and show the board which needs have a backlog."""
        in_memory = Counter(t.key[0] for t in self._tasks.live.values() if t.status is READY)
        for run, ready in backlog.ready.items():
            if ready > in_memory[run]:
                self._tasks.open[run] = self._tasks.open.get(run, 0) + ready - in_memory[run]
        for need in backlog.needs:
            self._board.open_backlog(need, self._round.now)

    def refill(self, event: e.BacklogPage) -> None:
        """Put the next tasks of a backlog on the board; they have been counted as open before."""
        rows = [row for row in event.rows if not self._entries.has_newer_status((row.run, row.id))]
        entries = [self._entries.from_live_task(row) for row in rows]
        for entry in entries:
            entry.ready_at = entry.submitted_at
            self._tasks.live[entry.key] = entry
        cutoff = None
        if event.more:
            last = event.rows[-1]
            cutoff = (-last.like.priority, last.seq + 1)
        self._board.refill(event.need, entries, cutoff)


def _sort_attempts(worker: WorkerEntry) -> None:
    """Order attempts as the worker runs them: running ones, then the oldest assignments."""
    attempts = worker.attempts.values()
    for task in sorted(attempts, key=lambda t: (t.status is ASSIGNED, t.assigned_at)):
        worker.attempts[task.key] = worker.attempts.pop(task.key)
        task.is_prefetched = True


def _departed_worker(row: e.LiveTask, now: float) -> WorkerEntry:
    """Return an entry for a worker of which only the name and the incarnation are known."""
    name = row.worker or "unknown"
    profile = WorkerProfile(
        name=name, title=name, incarnation=row.incarnation or "", skill=MIN_LEVEL
    )
    return WorkerEntry(profile, 0, now)
