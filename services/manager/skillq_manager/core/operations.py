"""Requests of operators: retry ended tasks, cancel tasks."""

from collections.abc import Iterable
from graphlib import TopologicalSorter

from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.entries import Entries, KnownTasks
from skillq_manager.core.model import Need, TaskEntry, TaskKey
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.lifecycle import BLOCKED, READY, SUCCEEDED, check_transition
from skillq_manager.core.tasks import Tasks


class Operations:
    """Retries and cancels tasks for operators."""

    def __init__(
        self, round_state: RoundState, board: Board, tasks: Tasks, entries: Entries
    ) -> None:
        self._round = round_state
        self._board = board
        self._tasks = tasks
        self._entries = entries

    def retry(self, event: e.RetryRequested) -> None:
        """Reopen ended tasks; the answer says which tasks are refused, and why."""
        done: list[TaskKey] = []
        refused: dict[TaskKey, str] = {}
        for stored in _in_dependency_order(event.tasks):
            reason = self._retry_refusal(stored, event.known)
            if reason is not None:
                refused[stored.key] = reason
                continue
            self._reopen(stored, event.known)
            done.append(stored.key)
        self._round.commands.append(c.AnswerRequest(event.request, tuple(done), refused))

    def _retry_refusal(self, stored: e.StoredTask, known: KnownTasks) -> str | None:
        if stored.key in self._tasks.live or self._is_in_backlog(stored):
            return "has not ended"
        if stored.key in self._round.ended or not stored.status.is_terminal:
            return "has ended just now; ask again"
        if stored.status is SUCCEEDED:
            return "has succeeded"
        for other in stored.task.depends_on:
            status = self._entries.status((stored.key[0], other), known)
            failed = status.is_terminal and status is not SUCCEEDED
            if failed and stored.task.on_failed_dependency == "fail":
                return f"depends on {other}, which {status}; retry that first, or with it"
        return None

    def _is_in_backlog(self, stored: e.StoredTask) -> bool:
        if stored.key in self._round.moved_to_backlog:
            return True
        was_ready = stored.status is READY and stored.key not in self._round.ended
        return was_ready and self._board.has_backlog(Need.from_task(stored.task))

    def _reopen(self, stored: e.StoredTask, known: KnownTasks) -> None:
        need, terms = self._entries.need_and_terms(stored.task)
        entry = TaskEntry(
            key=stored.key,
            seq=stored.seq,
            need=need,
            priority=stored.task.priority,
            terms=terms,
            fingerprint=stored.fingerprint,
            submitted_at=self._round.now,  # its deadline counts from now
            status=check_transition(stored.status, BLOCKED),
            attempt=stored.attempt,
        )
        self._tasks.open_task(entry)
        if self._entries.set_initial_status(entry, stored.task, known):
            self._tasks.put_on_board(entry)
        self._round.affected_runs[entry.key[0]] = True
        self._round.commands.append(
            c.Reopen(entry.key, entry.need.type, entry.status, entry.attempt, self._round.now)
        )

    def cancel(self, event: e.CancelRequested) -> None:
        """Cancel the tasks of a run that have not ended: those with the given ids, or all."""
        self._load_from_backlog(event)
        live = self._tasks.live
        if event.ids is None:
            tasks = [task for key, task in live.items() if key[0] == event.run]
        else:
            keys = dict.fromkeys((event.run, id) for id in event.ids)
            tasks = [live[key] for key in keys if key in live]
        self._tasks.cancel_tasks(tasks, event.reason)
        done = tuple(task.key for task in tasks)
        self._round.commands.append(c.AnswerRequest(event.request, done, {}))

    def _load_from_backlog(self, event: e.CancelRequested) -> None:
        """Bring the tasks to cancel that are in the backlog into memory."""
        for row in event.backlog:
            if not self._entries.has_newer_status((row.run, row.id)):
                entry = self._entries.from_live_task(row)
                self._tasks.live[entry.key] = entry
        moved = self._round.moved_to_backlog
        ids = None if event.ids is None else set(event.ids)
        for key in [k for k in moved if k[0] == event.run and (ids is None or k[1] in ids)]:
            self._tasks.live[key] = moved.pop(key)


def _in_dependency_order(tasks: Iterable[e.StoredTask]) -> list[e.StoredTask]:
    """Return the tasks, each after its dependencies among them, else in order of submission."""
    by_key = {stored.key: stored for stored in sorted(tasks, key=lambda stored: stored.seq)}
    graph = {
        key: [(key[0], other) for other in stored.task.depends_on if (key[0], other) in by_key]
        for key, stored in by_key.items()
    }
    return [by_key[key] for key in TopologicalSorter(graph).static_order()]
