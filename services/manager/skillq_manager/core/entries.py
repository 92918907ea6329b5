"""Entries of tasks, and the look-up of tasks, for submissions, operations and restore.

A task is known if it is in memory, changed in this round, or in the store.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from skillq.messages import Task, TaskStatus
from skillq_manager.core import events as e
from skillq_manager.core.model import Need, TaskEntry, TaskKey, Terms
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.lifecycle import BLOCKED, READY, check_transition
from skillq_manager.core.tasks import Tasks, is_met

_CACHED_SHAPES = 4096

KnownTasks = Mapping[TaskKey, e.StoredStatus]  # the status in the store, for the tasks of an event


class Entries:
    """Creates entries of tasks, and looks up the status of tasks."""

    def __init__(self, round_state: RoundState, tasks: Tasks) -> None:
        self._round = round_state
        self._tasks = tasks
        self._needs_and_terms: dict[tuple[Any, ...], tuple[Need, Terms]] = {}  # by shape of a task
        # One object for all equal needs: there may be as many shapes as tasks.
        self._needs: dict[Need, Need] = {}

    def need_and_terms(self, task: Task) -> tuple[Need, Terms]:
        """Return the need and the terms of a task: the same objects for tasks of one shape."""
        shape = task.shape()
        pair = self._needs_and_terms.get(shape)
        if pair is None:
            if len(self._needs_and_terms) >= _CACHED_SHAPES:
                self._needs_and_terms.clear()
                self._needs.clear()
            need = Need.from_task(task)
            pair = self._needs.setdefault(need, need), Terms.from_task(task)
            self._needs_and_terms[shape] = pair
        return pair

    def from_live_task(self, row: e.LiveTask) -> TaskEntry:
        """Return a new entry of a stored task that has not ended."""
        need, terms = self.need_and_terms(row.like)
        return TaskEntry(
            key=(row.run, row.id),
            seq=row.seq,
            need=row.need or need,
            priority=row.like.priority,
            terms=terms,
            fingerprint=row.fingerprint,
            submitted_at=row.submitted_at,
            status=row.status,
            attempt=row.attempt,
            failures=row.failures,
            losses=row.losses,
        )

    def set_initial_status(self, entry: TaskEntry, task: Task, known: KnownTasks) -> bool:
        """Make a blocked entry ready if its dependencies are met; return whether it is ready.

        Raises:
            KeyError: a dependency is not known.
        """
        for other in task.depends_on:
            key = (entry.key[0], other)
            if not is_met(self.status(key, known), entry):
                entry.unmet_dependencies += 1
                self._tasks.dependents.setdefault(key, []).append(entry)
        if entry.unmet_dependencies:
            return False
        entry.status = check_transition(BLOCKED, READY)
        return True

    def known_tasks(self, keys: Sequence[TaskKey], known: KnownTasks) -> dict[str, e.StoredStatus]:
        """Return the known tasks of one run among `keys`, by id.

        Set operations find them, because most tasks of a submission are not known.
        """
        sources = (self._tasks.live, self._round.moved_to_backlog, self._round.ended, known)
        found = set().union(*(source.keys() & keys for source in sources if source))
        return {key[1]: one for key in found if (one := self.known_task(key, known)) is not None}

    def known_task(self, key: TaskKey, known: KnownTasks) -> e.StoredStatus | None:
        """Return the present status of a task, or None if the task is not known."""
        entry = self._tasks.live.get(key) or self._round.moved_to_backlog.get(key)
        if entry is not None:
            return e.StoredStatus(entry.status, entry.fingerprint)
        return self._round.ended.get(key) or known.get(key)

    def status(self, key: TaskKey, known: KnownTasks) -> TaskStatus:
        """Return the present status of a known task.

        Raises:
            KeyError: the task is not known.
        """
        stored = self.known_task(key, known)
        if stored is None:
            raise KeyError(key)
        return stored.status

    def has_newer_status(self, key: TaskKey) -> bool:
        """Return whether the status in the store is outdated: the task is in memory, or changed."""
        return (
            key in self._tasks.live
            or key in self._round.moved_to_backlog
            or key in self._round.ended
        )
