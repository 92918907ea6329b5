"""Entries of tasks: made, and looked up."""

from collections.abc import Mapping, Sequence
from typing import Any

from skillq.messages import Task, TaskStatus
from skillq_manager.core import events as e
from skillq_manager.core.events import LiveTask
from skillq_manager.core.model import Need, TaskEntry, TaskKey, Terms
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.lifecycle import BLOCKED, READY, check
from skillq_manager.core.tasks import Tasks, is_met

_REMEMBERED = 4096

_Kind = tuple[Need, Terms]
KnownTasks = Mapping[TaskKey, e.StoredStatus]


class Entries:
    def __init__(self, turn: RoundState, tasks: Tasks) -> None:
        self._turn = turn
        self._tasks = tasks
        self._kinds: dict[tuple[Any, ...], _Kind] = {}  # what tasks of one shape ask for
        # One object for all that are equal: shapes may be as many as tasks.
        self._needs: dict[Need, Need] = {}

    def known_tasks(self, keys: Sequence[TaskKey], known: KnownTasks) -> dict[str, e.StoredStatus]:
        """Those that are known, by id: few of very many, so that they are looked for together."""
        places = (self._tasks.live, self._turn.moved_to_backlog, self._turn.ended, known)
        found = set().union(*(place.keys() & keys for place in places if place))
        return {key[1]: one for key in found if (one := self.known_task(key, known)) is not None}

    def known_task(self, key: TaskKey, known: KnownTasks) -> e.StoredStatus | None:
        entry = self._tasks.live.get(key)
        if entry is not None:
            return e.StoredStatus(entry.status, entry.fingerprint)
        away = self._turn.moved_to_backlog.get(key)
        if away is not None:
            return e.StoredStatus(away.status, away.fingerprint)
        return self._turn.ended.get(key) or known.get(key)

    def is_known(self, key: TaskKey) -> bool:
        """Whether what the store said of it before this turn is of no account."""
        turn = self._turn
        return key in self._tasks.live or key in turn.moved_to_backlog or key in turn.ended

    def status(self, key: TaskKey, known: KnownTasks) -> TaskStatus:
        there = self.known_task(key, known)
        if there is None:
            raise KeyError(key)
        return there.status

    def need_and_terms(self, task: Task) -> _Kind:
        """What it asks for, made once for all of its shape; no more of them are remembered than are worth it."""
        shape = task.shape()
        kind = self._kinds.get(shape)
        if kind is None:
            if len(self._kinds) >= _REMEMBERED:
                self._kinds.clear()
                self._needs.clear()
            need = Need.from_task(task)
            kind = self._kinds[shape] = self._needs.setdefault(need, need), Terms.from_task(task)
        return kind

    def of_row(self, row: LiveTask) -> TaskEntry:
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
        """Whether it waits for no other task: then it is ready."""
        for other in task.depends_on:
            key = (entry.key[0], other)
            if not is_met(self.status(key, known), entry):
                entry.waits_for += 1
                self._tasks.dependents.setdefault(key, []).append(entry)
        if entry.waits_for:
            return False
        entry.status = check(BLOCKED, READY)
        return True
