"""What operators ask: tasks sent again, tasks called off."""

from collections.abc import Iterable
from graphlib import TopologicalSorter

from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.entries import Entries, KnownTasks
from skillq_manager.core.model import Need, TaskEntry, TaskKey
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.lifecycle import BLOCKED, READY, SUCCEEDED, check
from skillq_manager.core.tasks import Tasks


class Operations:
    def __init__(self, turn: RoundState, board: Board, tasks: Tasks, entries: Entries) -> None:
        self._turn = turn
        self._board = board
        self._tasks = tasks
        self._entries = entries

    def retry(self, event: e.RetryRequested) -> None:
        """Take in again tasks that have ended; what is live, or waits for one that is not, is left alone."""
        done: list[TaskKey] = []
        refused: dict[TaskKey, str] = {}
        for again in _in_dependency_order(event.tasks):
            reason = self._retry_refusal(again, event.known)
            if reason is not None:
                refused[again.key] = reason
                continue
            self._reopen(again, event.known)
            done.append(again.key)
        self._turn.commands.append(c.AnswerRequest(event.request, tuple(done), refused))

    def _retry_refusal(self, again: e.StoredTask, known: KnownTasks) -> str | None:
        if again.key in self._tasks.live or self._is_in_backlog(again):
            return "has not ended"
        if again.key in self._turn.ended or not again.status.is_terminal:
            return "has ended just now; ask again"
        if again.status is SUCCEEDED:
            return "has succeeded"
        for other in again.task.depends_on:
            status = self._entries.status((again.key[0], other), known)
            failed = status.is_terminal and status is not SUCCEEDED
            if failed and again.task.on_failed_dependency == "fail":
                return f"depends on {other}, which {status}; send that again first, or with it"
        return None

    def _is_in_backlog(self, again: e.StoredTask) -> bool:
        if again.key in self._turn.moved_to_backlog:
            return True
        was_ready = again.status is READY and again.key not in self._turn.ended
        return was_ready and self._board.has_backlog(Need.from_task(again.task))

    def _reopen(self, again: e.StoredTask, known: KnownTasks) -> None:
        need, terms = self._entries.need_and_terms(again.task)
        entry = TaskEntry(
            key=again.key,
            seq=again.seq,
            need=need,
            priority=again.task.priority,
            terms=terms,
            fingerprint=again.fingerprint,
            submitted_at=self._turn.now,  # its deadline counts anew
            status=check(again.status, BLOCKED),
            attempt=again.attempt,
        )
        self._tasks.open_task(entry)
        if self._entries.set_initial_status(entry, again.task, known):
            self._tasks.put_on_board(entry)
        self._turn.runs[entry.key[0]] = True
        self._turn.commands.append(
            c.Reopen(entry.key, entry.need.type, entry.status, entry.attempt, self._turn.now)
        )

    def cancel(self, event: e.CancelRequested) -> None:
        """End tasks that have not; all of the run where no ids are given."""
        self._load_from_backlog(event)
        live = self._tasks.live
        if event.ids is None:
            tasks = [task for key, task in live.items() if key[0] == event.run]
        else:
            keys = dict.fromkeys((event.run, id) for id in event.ids)
            tasks = [live[key] for key in keys if key in live]
        self._tasks.cancel_tasks(tasks, event.reason)
        done = tuple(task.key for task in tasks)
        self._turn.commands.append(c.AnswerRequest(event.request, done, {}))

    def _load_from_backlog(self, event: e.CancelRequested) -> None:
        """Take those of them off their shelves."""
        for row in event.backlog:
            if not self._entries.is_known((row.run, row.id)):
                entry = self._entries.of_row(row)
                self._tasks.live[entry.key] = entry
        away = self._turn.moved_to_backlog
        asked = None if event.ids is None else set(event.ids)
        for key in [k for k in away if k[0] == event.run and (asked is None or k[1] in asked)]:
            self._tasks.live[key] = away.pop(key)


def _in_dependency_order(tasks: Iterable[e.StoredTask]) -> list[e.StoredTask]:
    """Each after those of them that it depends on, else in order of submission."""
    given = {again.key: again for again in sorted(tasks, key=lambda again: again.seq)}
    graph = {
        key: [(key[0], other) for other in again.task.depends_on if (key[0], other) in given]
        for key, again in given.items()
    }
    return [given[key] for key in TopologicalSorter(graph).static_order()]
