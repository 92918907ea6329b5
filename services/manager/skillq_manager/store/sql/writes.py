"""The commands of one turn of the core, as rows for statements.

All rows of one statement are written together. Where one task has several commands in a turn (ended, harder
now, given out again), they are written in as many rounds, one command per task and round, so that each finds
what the one before has left.
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
_Round = defaultdict[s.Statement, list[s.Row]]

_REMEMBERED = 4096
_SETS = ("requires", "excluded")  # of a `Need`
_JUST_ADDED = (0, READY)  # and nothing else has happened to it in this turn
_NOBODY = (None, None, None, None)  # has it
_STATUS = 3  # its place in the row of a new task


class WriteBatch:
    def __init__(self, commands: Sequence[c.Command]) -> None:
        self.counts: Counter[tuple[str, TaskStatus]] = Counter()
        self.unknown: list[TaskKey] = []  # leave a status that only the database knows
        self.fresh: list[tuple[TaskKey, Task, int]] = []  # to be sent as they are; bytes of texts
        self.ended_unsent: list[TaskKey] = []
        self._runs: dict[str, s.Row] = {}
        self._reopened: dict[str, None] = {}
        self._completed: dict[str, s.Row] = {}
        self._tasks: list[list[Any]] = []
        self._added: dict[TaskKey, list[Any]] = {}  # these rows, by whose they are
        self._shelved: list[list[Any]] = []
        self._kinds: dict[int, s.Row] = {}
        self._definitions: list[s.Row] = []
        self._rounds: list[_Round] = []
        self._after: dict[TaskKey, tuple[int, TaskStatus | None]] = {}  # next round, status now
        self._stale: list[s.Row] = []
        self._workers: dict[str, s.Row] = {}
        adders: dict[type, Callable[[Any], None]] = {
            c.AddTask: self._add,
            c.MoveToBacklog: self._shelve,
            c.SetStatus: self._set_status,
            c.Assign: self._assign,
            c.StartAttempt: self._start,
            c.EndAttempt: self._end,
            c.SetNeed: self._set_need,
            c.Reopen: self._reopen,
            c.RecordStaleResult: self._add_stale,
            c.SaveWorker: self._save_worker,
            c.CompleteRun: self._complete,
        }
        for command in commands:
            adder = adders.get(type(command))
            if adder is not None:
                adder(command)

    def groups(self) -> Iterator[Group]:
        """What is to be written, in this order; without `counts`."""
        yield s.OPEN_RUN, list(self._runs.values())
        yield s.REOPEN_RUN, [(run,) for run in self._reopened]
        yield s.ADD_TASK, list(map(tuple, self._tasks))
        yield s.ADD_KIND, list(self._kinds.values())
        yield s.ADD_SHELVED, list(map(tuple, self._shelved))
        yield s.DEFINE, self._definitions
        for one_round in self._rounds:
            yield from one_round.items()
        yield s.STALE, self._stale
        yield s.SAVE_WORKER, list(self._workers.values())
        yield s.COMPLETE_RUN, list(self._completed.values())

    # --- tasks that come

    def _add(self, command: c.AddTask) -> None:
        run, id = command.key
        task, status = command.task, command.status
        word = STATUS_TEXT[status]
        row = [command.seq, run, id, word, task.type, command.fingerprint, command.at, 0, 0, 0]
        if command.backlog is None:
            row += _NOBODY
            self._added[command.key] = row
            self._tasks.append(row)
        else:
            row += self._kind(command.backlog), -task.priority
            self._shelved.append(row)
        payload = _json(task.payload or None)
        self._definitions.append(
            (command.seq, task.definition(), _text(task.description) or None, payload)
        )
        if not task.depends_on:
            texts = len(task.description) + len(payload or "")
            self.fresh.append((command.key, task, texts))
        self._after[command.key] = 0, status
        self.counts[run, status] += 1
        if run not in self._runs:
            self._runs[run] = run, _text(command.run_title), command.at, command.seq

    # --- tasks that lie on a shelf

    def _kind(self, need: Need) -> int:
        kind, text = kind_of(need)
        self._kinds[kind] = kind, text
        return kind

    def _shelve(self, command: c.MoveToBacklog) -> None:
        rows, _ = self._round(command)
        rows[s.SHELVE].append((*command.key, self._kind(command.need), -command.priority))

    # --- tasks that move

    def _round(self, command: preconditions.Move) -> tuple[_Round, TaskStatus | None]:
        """Where a command on a task belongs, and the task's status before it; None: only the database knows."""
        number, before = self._after.get(command.key, (0, None))
        if number == len(self._rounds):
            self._rounds.append(defaultdict(list))
        self._after[command.key] = number + 1, preconditions.status_after(command) or before
        return self._rounds[number], before

    def _leave(self, key: TaskKey, before: TaskStatus | None) -> None:
        if before is None:
            self.unknown.append(key)
        else:
            self.counts[key[0], before] -= 1

    def _set_status(self, command: c.SetStatus) -> None:
        rows, before = self._round(command)
        run, id = command.key
        status = command.status
        finished_at = command.at if status in TERMINAL else None
        row = (run, id, command.attempt, STATUS_TEXT[status], _text(command.reason), finished_at)
        rows[s.SET_STATUS].append(row)
        if status in TERMINAL:
            self.ended_unsent.append(command.key)
        self._leave(command.key, before)
        self.counts[run, status] += 1

    def _assign(self, command: c.Assign) -> None:
        worker = command.worker
        given = (
            command.attempt,
            command.at,
            _text(worker.title),
            worker.name,
            worker.incarnation,
        )
        self.counts[command.key[0], READY] -= 1
        row = self._added.get(command.key)
        if row is not None and command.attempt == 1 and self._after[command.key] == _JUST_ADDED:
            # So its row is written once, and not twice in one transaction. All else has a fence to pass.
            row[_STATUS] = STATUS_TEXT[ASSIGNED]
            row[-len(given) :] = given
            self._after[command.key] = 0, ASSIGNED
            return
        rows, _ = self._round(command)
        rows[s.ASSIGN].append((*command.key, *given))

    def _start(self, command: c.StartAttempt) -> None:
        rows, _ = self._round(command)
        rows[s.START].append((*command.key, command.attempt, command.at))

    def _end(self, command: c.EndAttempt) -> None:
        rows, _ = self._round(command)
        run, status, result = command.key[0], command.status, command.result
        this = (*command.key, command.attempt)
        outcome, reason = STATUS_TEXT[command.outcome], _text(command.reason)
        started_at = (result.started_at if result else None) or None
        finished_at = (result.finished_at if result else None) or command.at
        spent = command.failures, command.losses
        self.counts[run, status] += 1
        if status in TERMINAL:
            output = _json(result.output if result else None)
            rows[s.END_TASK].append(
                (
                    *this,
                    STATUS_TEXT[status],
                    outcome,
                    reason,
                    output,
                    started_at,
                    finished_at,
                    *spent,
                )
            )
            return
        rows[s.KEEP_ENDED].append((*this, started_at, finished_at, outcome, reason))
        rows[s.TRY_AGAIN].append(
            (*this, STATUS_TEXT[status], reason, started_at, command.retry_at, *spent)
        )

    def _set_need(self, command: c.SetNeed) -> None:
        rows, _ = self._round(command)
        rows[s.SET_NEED].append((*command.key, need_json(command.need), _text(command.reason)))

    def _reopen(self, command: c.Reopen) -> None:
        rows, before = self._round(command)
        rows[s.KEEP_LAST].append(command.key)
        rows[s.REOPEN].append(
            (*command.key, command.attempt, STATUS_TEXT[command.status], command.at)
        )
        self._leave(command.key, before)
        self.counts[command.key[0], command.status] += 1
        self._reopened[command.key[0]] = None

    # --- the rest

    def _add_stale(self, command: c.RecordStaleResult) -> None:
        row = AttemptRow.of_stale(command)
        self._stale.append(
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
                _text(row.error),
            )
        )

    def _save_worker(self, command: c.SaveWorker) -> None:
        profile = command.profile
        self._workers[profile.name] = (
            profile.name,
            profile.model_dump_json(),
            command.event.value,
            _text(command.reason),
            command.at,
        )

    def _complete(self, command: c.CompleteRun) -> None:
        self._completed[command.run] = command.run, command.at


def _text(text: str | None) -> str | None:
    """What PostgreSQL can keep: a text without the character 0."""
    return text.replace("\0", "\ufffd") if text and "\0" in text else text


def _json(value: JsonValue) -> str | None:
    return None if value is None else to_json(value).decode()


@lru_cache(maxsize=_REMEMBERED)
def kind_of(need: Need) -> tuple[int, str]:
    """A number of 63 bits that stands for a need, and the need in words."""
    text = need_json(need)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1, text


def need_json(need: Need) -> str:
    fields = need._asdict()
    return to_json(fields | {name: sorted(fields[name]) for name in _SETS}).decode()


def need_of(text: str) -> Need:
    fields = from_json(text)
    return Need(**fields | {name: frozenset(fields[name]) for name in _SETS})
