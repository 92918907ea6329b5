"""How tasks come in: submitted, sent again by an operator, restored from the store."""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any

from skillq.messages import MIN_LEVEL, Outcome, Submission, Task, TaskStatus, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.model import (
    LiveTask,
    Need,
    TaskEntry,
    TaskKey,
    Terms,
    WorkerEntry,
)
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.lifecycle import ASSIGNED, BLOCKED, READY, SUCCEEDED, check
from skillq_manager.core.tasks import Tasks, is_met

_REMEMBERED = 4096

_Kind = tuple[Need, Terms]
_KnownTasks = Mapping[TaskKey, e.StoredStatus]


class Submissions:
    def __init__(self, turn: RoundState, tasks: Tasks) -> None:
        self._turn = turn
        self._tasks = tasks
        self._kinds: dict[tuple[Any, ...], _Kind] = {}  # what tasks of one shape ask for
        # One object for all that are equal: shapes may be as many as tasks.
        self._needs: dict[Need, Need] = {}
        self._blocked: list[tuple[TaskEntry, tuple[str, ...]]] = []  # while restoring
        self._lost: list[tuple[TaskEntry, WorkerEntry]] = []  # likewise
        self._overcommitted: dict[WorkerEntry, None] = {}  # likewise: have more than slots

    # --- submission

    def submit(self, event: e.SubmissionReceived) -> None:
        """Take a submission in as a whole, or refuse it as a whole. What is known already is left alone."""
        submission, known = event.submission, event.known
        run, tasks = submission.run, submission.tasks
        there = self._known_tasks([(run, task.id) for task in tasks], known)
        reason = self._refusal(event, there)
        if reason is not None:
            self.refuse(e.SubmissionInvalid(submission, reason))
            return
        fresh = [task for task in tasks if task.id not in there] if there else tasks
        self._turn.commands.append(
            c.AnswerSubmission(submission, len(fresh), len(there), None, self._turn.now)
        )
        self._turn.runs[run] = bool(fresh) or self._turn.runs.get(run, False)
        self._turn.titles[run] = submission.run_title
        self._accept(submission, fresh, known)

    def _accept(self, submission: Submission, fresh: Sequence[Task], known: _KnownTasks) -> None:
        run, title, out, now = (
            submission.run,
            submission.run_title,
            self._turn.commands,
            self._turn.now,
        )
        entries = [self._new_entry(run, task) for task in fresh]
        for entry, task in zip(entries, fresh, strict=True):
            is_here = not self._set_initial_status(entry, task, known) or self._tasks.add_new(entry)
            shelf = None if is_here else entry.need
            out.append(
                c.AddTask(
                    entry.key, entry.seq, title, task, entry.fingerprint, entry.status, now, shelf
                )
            )
        self._tasks.evict()
        for entry, task in zip(entries, fresh, strict=True):
            if task.depends_on:
                self._fail_with_dependency(entry, task, known)

    def refuse(self, event: e.SubmissionInvalid) -> None:
        self._turn.commands.append(
            c.AnswerSubmission(event.submission, 0, 0, event.reason, self._turn.now)
        )

    def _refusal(
        self, event: e.SubmissionReceived, there: Mapping[str, e.StoredStatus]
    ) -> str | None:
        submission = event.submission
        run, title = submission.run, submission.run_title
        other = self._turn.titles.get(run, event.run_title)
        if other not in {None, title}:
            return f"run {title!r} would be {run} on the wire, as run {other!r} is; choose another name"
        doubtful = [task for task in submission.tasks if task.depends_on or task.id in there]
        own = {task.id for task in submission.tasks} if doubtful else set()
        complaints = (
            self._task_refusal(run, task, own, there.get(task.id), event.known) for task in doubtful
        )
        return next((complaint for complaint in complaints if complaint), None)

    def _task_refusal(
        self, run: str, task: Task, own: set[str], there: e.StoredStatus | None, known: _KnownTasks
    ) -> str | None:
        if there is not None and there.fingerprint != task.fingerprint():
            return (
                f"task {task.id} is already in run {run} with another definition; "
                "use another id or another run"
            )
        for other in task.depends_on:
            if other not in own and self._known_task((run, other), known) is None:
                return (
                    f"task {task.id} depends on {other}, which is neither in this submission "
                    f"nor in run {run}; submit it first or correct the id"
                )
        return None

    def _known_tasks(
        self, keys: Sequence[TaskKey], known: _KnownTasks
    ) -> dict[str, e.StoredStatus]:
        """Those that are known, by id: few of very many, so that they are looked for together."""
        places = (self._tasks.live, self._turn.moved_to_backlog, self._turn.ended, known)
        found = set().union(*(place.keys() & keys for place in places if place))
        return {key[1]: one for key in found if (one := self._known_task(key, known)) is not None}

    def _known_task(self, key: TaskKey, known: _KnownTasks) -> e.StoredStatus | None:
        entry = self._tasks.live.get(key)
        if entry is not None:
            return e.StoredStatus(entry.status, entry.fingerprint)
        away = self._turn.moved_to_backlog.get(key)
        if away is not None:
            return e.StoredStatus(away.status, away.fingerprint)
        return self._turn.ended.get(key) or known.get(key)

    def _new_entry(self, run: str, task: Task) -> TaskEntry:
        need, terms = self._need_and_terms(task)
        entry = TaskEntry(
            (run, task.id),
            next(self._tasks.seq),
            need,
            task.priority,
            terms,
            task.fingerprint(),
            self._turn.now,
            BLOCKED,
        )
        self._tasks.open_task(entry)
        return entry

    def _need_and_terms(self, task: Task) -> _Kind:
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

    def _set_initial_status(self, entry: TaskEntry, task: Task, known: _KnownTasks) -> bool:
        """Whether it waits for no other task: then it is ready."""
        for other in task.depends_on:
            key = (entry.key[0], other)
            if not is_met(self._status(key, known), entry):
                entry.waits_for += 1
                self._tasks.dependents.setdefault(key, []).append(entry)
        if entry.waits_for:
            return False
        entry.status = check(BLOCKED, READY)
        return True

    def _fail_with_dependency(self, entry: TaskEntry, task: Task, known: _KnownTasks) -> None:
        for other in task.depends_on:
            key = (entry.key[0], other)
            status = self._status(key, known)
            if status.is_terminal and not is_met(status, entry):
                self._tasks.resolve(key, status)

    def _status(self, key: TaskKey, known: _KnownTasks) -> TaskStatus:
        there = self._known_task(key, known)
        if there is None:
            raise KeyError(key)
        return there.status

    # --- sent again

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

    def _retry_refusal(self, again: e.StoredTask, known: _KnownTasks) -> str | None:
        if again.key in self._tasks.live or self._is_in_backlog(again):
            return "has not ended"
        if again.key in self._turn.ended or not again.status.is_terminal:
            return "has ended just now; ask again"
        if again.status is SUCCEEDED:
            return "has succeeded"
        for other in again.task.depends_on:
            status = self._status((again.key[0], other), known)
            failed = status.is_terminal and status is not SUCCEEDED
            if failed and again.task.on_failed_dependency == "fail":
                return f"depends on {other}, which {status}; send that again first, or with it"
        return None

    def _is_in_backlog(self, again: e.StoredTask) -> bool:
        if again.key in self._turn.moved_to_backlog:
            return True
        was_ready = again.status is READY and again.key not in self._turn.ended
        return was_ready and self._tasks.has_backlog(again.task)

    def _reopen(self, again: e.StoredTask, known: _KnownTasks) -> None:
        need, terms = self._need_and_terms(again.task)
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
        if self._set_initial_status(entry, again.task, known):
            self._tasks.put_on_board(entry)
        self._turn.runs[entry.key[0]] = True
        self._turn.commands.append(
            c.Reopen(entry.key, entry.need.type, entry.status, entry.attempt, self._turn.now)
        )

    # --- called off

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
            if not self._is_known((row.run, row.id)):
                entry = self._entry(row)
                self._tasks.live[entry.key] = entry
        away = self._turn.moved_to_backlog
        asked = None if event.ids is None else set(event.ids)
        for key in [k for k in away if k[0] == event.run and (asked is None or k[1] in asked)]:
            self._tasks.live[key] = away.pop(key)

    def _is_known(self, key: TaskKey) -> bool:
        """Whether what the store said of it before this turn is of no account."""
        turn = self._turn
        return key in self._tasks.live or key in turn.moved_to_backlog or key in turn.ended

    def refill(self, event: e.BacklogPage) -> None:
        """The next tasks of a shelf: they have been open all the time."""
        rows = [row for row in event.rows if not self._is_known((row.run, row.id))]
        entries = [self._entry(row) for row in rows]
        for entry in entries:
            entry.ready_at = entry.submitted_at
            self._tasks.live[entry.key] = entry
        horizon = None
        if event.more:
            last = event.rows[-1]
            horizon = (-last.like.priority, last.seq + 1)
        self._tasks.refill(event.need, entries, horizon)

    # --- restored

    def restore(self, rows: Iterable[LiveTask], workers: Mapping[str, WorkerEntry]) -> None:
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

    def finish_restore(self, shelf: e.BacklogSummary, known: _KnownTasks) -> None:
        """All are there: a blocked task waits for those of its dependencies that have not ended."""
        self._tasks.open_backlogs(shelf)
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
        entry = self._entry(row)
        self._tasks.open_task(entry)
        return entry

    def _entry(self, row: LiveTask) -> TaskEntry:
        need, terms = self._need_and_terms(row.like)
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


def _in_dependency_order(tasks: Iterable[e.StoredTask]) -> list[e.StoredTask]:
    """Each after those of them that it depends on, else in order of submission."""
    given = {again.key: again for again in sorted(tasks, key=lambda again: again.seq)}
    graph = {
        key: [(key[0], other) for other in again.task.depends_on if (key[0], other) in given]
        for key, again in given.items()
    }
    return [given[key] for key in TopologicalSorter(graph).static_order()]


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
