"""Conversion of the commands of one decision into rows for statements.

All rows of one statement are written together. If one task has several commands in a decision (for example
it ends, its need changes, it is assigned again), the commands are written in several passes. A pass has at
most one command per task, so that each command finds the row as the previous command left it.
See docs/adr/0008-one-sql-layer-for-both-databases.md.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from skillq.messages import STATUS_TEXT, TERMINAL, Task, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.model import Need, TaskKey
from skillq_manager.core.rules.lifecycle import ASSIGNED, READY
from skillq_manager.store import preconditions
from skillq_manager.store.base import AttemptRow
from skillq_manager.store.sql import statements as s

Group = tuple[s.Statement, list[s.Row]]
_Pass = defaultdict[s.Statement, list[s.Row]]

_CACHED_NEEDS = 4096
_SET_FIELDS = ("requires", "excluded")  # of a `Need`
_JUST_ADDED = (
    0,
    READY,
)  # progress of a ready task that this decision added and did not change since
_NO_WORKER = (None, None, None, None)
_STATUS_COLUMN = 3  # of the row of a new task


class WriteBatch:
    """The rows that one decision writes, in groups of one statement each.

    `count_changes` are the changes of the numbers of tasks per run and status.
    """

    def __init__(self, commands: Sequence[c.Command]) -> None:
        self.count_changes: Counter[tuple[str, TaskStatus]] = Counter()
        # Tasks that leave a status that only the database knows.
        self.unknown_before: list[TaskKey] = []
        # New tasks without dependencies, and the size of their texts in bytes.
        self.cacheable: list[tuple[TaskKey, Task, int]] = []
        self.ended_unsent: list[TaskKey] = []  # tasks that ended without an assignment
        self._runs: dict[str, s.Row] = {}
        self._reopened: dict[str, None] = {}
        self._completed: dict[str, s.Row] = {}
        self._new_tasks: list[list[Any]] = []
        self._new_rows: dict[TaskKey, list[Any]] = {}  # the rows of `_new_tasks`, by task
        self._new_backlog_tasks: list[list[Any]] = []
        self._new_kinds: dict[int, s.Row] = {}
        self._new_definitions: list[s.Row] = []
        self._passes: list[_Pass] = []
        # For each task the number of its next pass, and its status so far.
        self._progress: dict[TaskKey, tuple[int, TaskStatus | None]] = {}
        self._stale_results: list[s.Row] = []
        self._workers: dict[str, s.Row] = {}
        adders: dict[type, Callable[[Any], None]] = {
            c.AddTask: self._add_task,
            c.MoveToBacklog: self._move_to_backlog,
            c.SetStatus: self._set_status,
            c.Assign: self._assign,
            c.StartAttempt: self._start_attempt,
            c.EndAttempt: self._end_attempt,
            c.SetNeed: self._set_need,
            c.Reopen: self._reopen,
            c.RecordStaleResult: self._add_stale_result,
            c.SaveWorker: self._save_worker,
            c.CompleteRun: self._complete_run,
        }
        for command in commands:
            adder = adders.get(type(command))
            if adder is not None:
                adder(command)

    def groups(self) -> Iterator[Group]:
        """Yield statements with their rows, in the order of writing; without `count_changes`."""
        yield s.OPEN_RUN, list(self._runs.values())
        yield s.REOPEN_RUN, [(run,) for run in self._reopened]
        yield s.ADD_TASK, list(map(tuple, self._new_tasks))
        yield s.ADD_KIND, list(self._new_kinds.values())
        yield s.ADD_BACKLOG_TASK, list(map(tuple, self._new_backlog_tasks))
        yield s.ADD_DEFINITION, self._new_definitions
        for one_pass in self._passes:
            yield from one_pass.items()
        yield s.ADD_STALE_RESULT, self._stale_results
        yield s.SAVE_WORKER, list(self._workers.values())
        yield s.COMPLETE_RUN, list(self._completed.values())

    # --- New tasks

    def _add_task(self, command: c.AddTask) -> None:
        run, id = command.key
        task, status = command.task, command.status
        text = STATUS_TEXT[status]
        row = [command.seq, run, id, text, task.type, command.fingerprint, command.at, 0, 0, 0]
        if command.backlog is None:
            row += _NO_WORKER
            self._new_rows[command.key] = row
            self._new_tasks.append(row)
        else:
            row += self._kind_of_need(command.backlog), -task.priority
            self._new_backlog_tasks.append(row)
        payload = _json(task.payload or None)
        self._new_definitions.append(
            (command.seq, task.definition(), _storable_text(task.description) or None, payload)
        )
        if not task.depends_on:
            texts = len(task.description) + len(payload or "")
            self.cacheable.append((command.key, task, texts))
        self._progress[command.key] = 0, status
        self.count_changes[run, status] += 1
        if run not in self._runs:
            self._runs[run] = run, _storable_text(command.run_title), command.at, command.seq

    # --- Tasks in the backlog

    def _kind_of_need(self, need: Need) -> int:
        kind, text = kind_and_json(need)
        self._new_kinds[kind] = kind, text
        return kind

    def _move_to_backlog(self, command: c.MoveToBacklog) -> None:
        rows, _ = self._next_pass(command)
        rows[s.MOVE_TO_BACKLOG].append(
            (*command.key, self._kind_of_need(command.need), -command.priority)
        )

    # --- Tasks that change

    def _next_pass(self, command: preconditions.Move) -> tuple[_Pass, TaskStatus | None]:
        """Return the pass for a command, and the task's status before the command.

        The status is None if only the database knows it.
        """
        number, before = self._progress.get(command.key, (0, None))
        if number == len(self._passes):
            self._passes.append(defaultdict(list))
        self._progress[command.key] = number + 1, preconditions.status_after(command) or before
        return self._passes[number], before

    def _count_departure(self, key: TaskKey, before: TaskStatus | None) -> None:
        if before is None:
            self.unknown_before.append(key)
        else:
            self.count_changes[key[0], before] -= 1

    def _set_status(self, command: c.SetStatus) -> None:
        rows, before = self._next_pass(command)
        run, id = command.key
        status = command.status
        finished_at = command.at if status in TERMINAL else None
        row = (
            run,
            id,
            command.attempt,
            STATUS_TEXT[status],
            _storable_text(command.reason),
            finished_at,
        )
        rows[s.SET_STATUS].append(row)
        if status in TERMINAL:
            self.ended_unsent.append(command.key)
        self._count_departure(command.key, before)
        self.count_changes[run, status] += 1

    def _assign(self, command: c.Assign) -> None:
        worker = command.worker
        assignment = (
            command.attempt,
            command.at,
            _storable_text(worker.title),
            worker.name,
            worker.incarnation,
        )
        self.count_changes[command.key[0], READY] -= 1
        row = self._new_rows.get(command.key)
        if row is not None and command.attempt == 1 and self._progress[command.key] == _JUST_ADDED:
            # The row is written once instead of twice. All other assignments need their precondition.
            row[_STATUS_COLUMN] = STATUS_TEXT[ASSIGNED]
            row[-len(assignment) :] = assignment
            self._progress[command.key] = 0, ASSIGNED
            return
        rows, _ = self._next_pass(command)
        rows[s.ASSIGN].append((*command.key, *assignment))

    def _start_attempt(self, command: c.StartAttempt) -> None:
        rows, _ = self._next_pass(command)
        rows[s.START_ATTEMPT].append((*command.key, command.attempt, command.at))

    def _end_attempt(self, command: c.EndAttempt) -> None:
        rows, _ = self._next_pass(command)
        run, status, result = command.key[0], command.status, command.result
        attempt_key = (*command.key, command.attempt)
        outcome, reason = STATUS_TEXT[command.outcome], _storable_text(command.reason)
        started_at = (result.started_at if result else None) or None
        finished_at = (result.finished_at if result else None) or command.at
        failures_and_losses = command.failures, command.losses
        self.count_changes[run, status] += 1
        if status in TERMINAL:
            output = _json(result.output if result else None)
            rows[s.END_TASK].append(
                (
                    *attempt_key,
                    STATUS_TEXT[status],
                    outcome,
                    reason,
                    output,
                    started_at,
                    finished_at,
                    *failures_and_losses,
                )
            )
            return
        rows[s.SAVE_ENDED_ATTEMPT].append((*attempt_key, started_at, finished_at, outcome, reason))
        rows[s.RETRY].append(
            (
                *attempt_key,
                STATUS_TEXT[status],
                reason,
                started_at,
                command.retry_at,
                *failures_and_losses,
            )
        )

    def _set_need(self, command: c.SetNeed) -> None:
        rows, _ = self._next_pass(command)
        rows[s.SET_NEED].append(
            (*command.key, need_json(command.need), _storable_text(command.reason))
        )

    def _reopen(self, command: c.Reopen) -> None:
        rows, before = self._next_pass(command)
        rows[s.SAVE_LAST_ATTEMPT].append(command.key)
        rows[s.REOPEN].append(
            (*command.key, command.attempt, STATUS_TEXT[command.status], command.at)
        )
        self._count_departure(command.key, before)
        self.count_changes[command.key[0], command.status] += 1
        self._reopened[command.key[0]] = None

    # --- Stale results, workers and runs

    def _add_stale_result(self, command: c.RecordStaleResult) -> None:
        row = AttemptRow.from_stale_result(command)
        self._stale_results.append(
            (
                command.result.run,
                command.result.id,
                row.attempt,
                row.worker,
                row.incarnation,
                row.assigned_at,
                row.started_at,
                row.finished_at,
                STATUS_TEXT[command.result.outcome],
                _storable_text(row.error),
            )
        )

    def _save_worker(self, command: c.SaveWorker) -> None:
        profile = command.profile
        self._workers[profile.name] = (
            profile.name,
            profile.model_dump_json(),
            command.event.value,
            _storable_text(command.reason),
            command.at,
        )

    def _complete_run(self, command: c.CompleteRun) -> None:
        self._completed[command.run] = command.run, command.at


def _storable_text(text: str | None) -> str | None:
    """Return the text without the character 0, which PostgreSQL cannot store."""
    return text.replace("\0", "\ufffd") if text and "\0" in text else text


def _json(value: JsonValue) -> str | None:
    return None if value is None else to_json(value).decode()


@lru_cache(maxsize=_CACHED_NEEDS)
def kind_and_json(need: Need) -> tuple[int, str]:
    """Return the number of a need (column `kind`, 63 bits), and the need as JSON."""
    text = need_json(need)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1, text


def need_json(need: Need) -> str:
    """Return a need as JSON; equal needs have the same text."""
    fields = need._asdict()
    return to_json(fields | {name: sorted(fields[name]) for name in _SET_FIELDS}).decode()


def need_from_json(text: str) -> Need:
    """Read a need from its JSON."""
    fields = from_json(text)
    return Need(**fields | {name: frozenset(fields[name]) for name in _SET_FIELDS})
