"""Tasks from the store: those that an earlier manager left, and pages of the backlog."""

from collections import Counter
from collections.abc import Iterable, Mapping

from skillq.messages import MIN_LEVEL, Outcome, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.entries import Entries, KnownTasks
from skillq_manager.core.events import LiveTask
from skillq_manager.core.model import TaskEntry, TaskKey, WorkerEntry
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.lifecycle import ASSIGNED, BLOCKED, READY
from skillq_manager.core.tasks import Tasks


class Restore:
    def __init__(self, turn: RoundState, board: Board, tasks: Tasks, entries: Entries) -> None:
        self._turn = turn
        self._board = board
        self._tasks = tasks
        self._entries = entries
        self._blocked: list[tuple[TaskEntry, tuple[str, ...]]] = []
        self._lost: list[tuple[TaskEntry, WorkerEntry]] = []
        self._overcommitted: dict[WorkerEntry, None] = {}  # have more than slots

    def add_tasks(self, rows: Iterable[LiveTask], workers: Mapping[str, WorkerEntry]) -> None:
        """Take in what an earlier manager left; what no worker of these has is lost, and ready again."""
        for row in rows:
            entry = self._restored_entry(row)
            if entry.status is BLOCKED:
                self._blocked.append((entry, row.like.depends_on))
            elif entry.status is READY and row.retry_at is not None:
                self._tasks.wait_until(entry, row.retry_at)
            elif entry.status is READY:
                self._tasks.put_on_board(entry)
            else:
                self._restore_attempt(entry, row, workers.get(row.worker or ""))

    def unresolved_dependencies(self) -> set[TaskKey]:
        """What blocked tasks depend on that has ended, or is on a shelf."""
        named = {(entry.key[0], d) for entry, depends_on in self._blocked for d in depends_on}
        return named - self._tasks.live.keys()

    def finish(self, shelf: e.BacklogSummary, known: KnownTasks) -> None:
        """All are there: a blocked task waits for those of its dependencies that have not ended."""
        self._open_backlogs(shelf)
        shelved = {key for key, there in known.items() if not there.status.is_terminal}
        for entry, depends_on in self._blocked:
            for other in depends_on:
                key = (entry.key[0], other)
                if key in self._tasks.live or key in shelved:
                    entry.waits_for += 1
                    self._tasks.dependents.setdefault(key, []).append(entry)
            if not entry.waits_for:  # they succeeded: one that had not would have failed it
                self._tasks.unblock(entry)
        self._blocked.clear()
        for entry, worker in self._lost:
            reason = "its worker is not there any more"
            self._tasks.end_attempt(entry, worker, Outcome.LOST, reason=reason)
        self._lost.clear()
        for worker in self._overcommitted:
            _sort_attempts(worker)
        self._overcommitted.clear()

    def refill(self, event: e.BacklogPage) -> None:
        """The next tasks of a shelf: they have been open all the time."""
        rows = [row for row in event.rows if not self._entries.is_known((row.run, row.id))]
        entries = [self._entries.of_row(row) for row in rows]
        for entry in entries:
            entry.ready_at = entry.submitted_at
            self._tasks.live[entry.key] = entry
        horizon = None
        if event.more:
            last = event.rows[-1]
            horizon = (-last.like.priority, last.seq + 1)
        self._board.refill(event.need, entries, horizon)

    def _restore_attempt(self, entry: TaskEntry, row: LiveTask, worker: WorkerEntry | None) -> None:
        if worker is None or worker.incarnation != row.incarnation:
            worker = _departed_worker(row, self._turn.now)
            self._lost.append((entry, worker))
        elif entry.status is ASSIGNED:
            # Who wrote that it is assigned may have died before it could say so.
            self._turn.commands.append(c.Resend(entry.key, entry.attempt, worker.profile))
        self._tasks.give_to(entry, worker, row.assigned_at or self._turn.now)
        if entry.is_prefetched:
            self._overcommitted[worker] = None

    def _restored_entry(self, row: LiveTask) -> TaskEntry:
        entry = self._entries.of_row(row)
        self._tasks.open_task(entry)
        return entry

    def _open_backlogs(self, shelf: e.BacklogSummary) -> None:
        """Count what an earlier manager has left there; it is fetched when it is wanted."""
        here = Counter(t.key[0] for t in self._tasks.live.values() if t.status is READY)
        for run, ready in shelf.ready.items():
            if ready > here[run]:
                self._tasks.open[run] = self._tasks.open.get(run, 0) + ready - here[run]
        for need in shelf.needs:
            self._board.open_backlog(need, self._turn.now)


def _sort_attempts(worker: WorkerEntry) -> None:
    """What has begun, then what was given out first: so the worker goes on."""
    held = worker.attempts.values()
    for task in sorted(held, key=lambda t: (t.status is ASSIGNED, t.assigned_at)):
        worker.attempts[task.key] = worker.attempts.pop(task.key)
        task.is_prefetched = True


def _departed_worker(row: LiveTask, now: float) -> WorkerEntry:
    """Stands for a worker of which nothing is known but that it had a task."""
    name = row.worker or "unknown"
    profile = WorkerProfile(
        name=name, title=name, incarnation=row.incarnation or "", skill=MIN_LEVEL
    )
    return WorkerEntry(profile, 0, now)
