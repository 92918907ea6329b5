"""Tasks that have not ended: taken in, given out, ended, tried again."""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count

from skillq.messages import Outcome, Submission, Task, TaskResult, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import retry
from skillq_manager.core.lifecycle import check
from skillq_manager.core.model import Need, TaskEntry, TaskKey, WorkerEntry
from skillq_manager.core.ready import Board
from skillq_manager.core.turn import Turn

_KnownTasks = Mapping[TaskKey, c.Known]


class Tasks:
    """Each task is in one place: `board` or `timers` (ready), a worker's `holds`, or waiting in `dependents`."""

    def __init__(
        self, turn: Turn, board: Board, policy: retry.RetryPolicy, chance: Callable[[], float]
    ) -> None:
        self._turn = turn
        self._board = board
        self._policy = policy
        self._chance = chance
        self._seq = count(1)
        self.live: dict[TaskKey, TaskEntry] = {}
        self.dependents: dict[TaskKey, list[TaskEntry]] = {}
        self.open: dict[str, int] = {}  # by run, how many have not ended
        self.timers: list[tuple[float, int, TaskEntry]] = []

    # --- submission

    def submit(self, event: c.Submitted) -> None:
        """Take a submission in as a whole, or refuse it as a whole. What is known already is left alone."""
        submission = event.submission
        reason = self._refusal(event)
        if reason is not None:
            self._turn.out.append(c.Answer(submission, 0, 0, reason, self._turn.now))
            return
        fresh = [
            t for t in submission.tasks if self._known((submission.run, t.id), event.known) is None
        ]
        known = len(submission.tasks) - len(fresh)
        self._turn.out.append(c.Answer(submission, len(fresh), known, None, self._turn.now))
        self._turn.runs[submission.run] = None
        self._turn.titles[submission.run] = submission.run_title
        entries = [self._enter(submission.run, task) for task in fresh]
        for entry, task in zip(entries, fresh, strict=True):
            self._place(entry, task, submission, event.known)
        for entry, task in zip(entries, fresh, strict=True):
            self._fail_if_doomed(entry, task, event.known)

    def _refusal(self, event: c.Submitted) -> str | None:
        run, title = event.submission.run, event.submission.run_title
        other = self._turn.titles.get(run, event.run_title)
        if other not in {None, title}:
            return f"run {title!r} would be {run} on the wire, as run {other!r} is; choose another name"
        own = {task.id for task in event.submission.tasks}
        complaints = (
            self._complaint(run, task, own, event.known) for task in event.submission.tasks
        )
        return next((complaint for complaint in complaints if complaint), None)

    def _complaint(self, run: str, task: Task, own: set[str], known: _KnownTasks) -> str | None:
        there = self._known((run, task.id), known)
        if there is not None and there.fingerprint != task.fingerprint():
            return (
                f"task {task.id} is already in run {run} with another definition; "
                "use another id or another run"
            )
        for other in task.depends_on:
            if other not in own and self._known((run, other), known) is None:
                return (
                    f"task {task.id} depends on {other}, which is neither in this submission "
                    f"nor in run {run}; submit it first or correct the id"
                )
        return None

    def _known(self, key: TaskKey, known: _KnownTasks) -> c.Known | None:
        entry = self.live.get(key)
        if entry is not None:
            return c.Known(entry.status, entry.fingerprint)
        return self._turn.ended.get(key) or known.get(key)

    def _enter(self, run: str, task: Task) -> TaskEntry:
        entry = TaskEntry(
            key=(run, task.id),
            seq=next(self._seq),
            need=Need.of(task),
            priority=task.priority,
            max_attempts=task.max_attempts,
            fingerprint=task.fingerprint(),
            status=TaskStatus.BLOCKED,
        )
        self.live[entry.key] = entry
        self.open[run] = self.open.get(run, 0) + 1
        return entry

    def _place(
        self, entry: TaskEntry, task: Task, submission: Submission, known: _KnownTasks
    ) -> None:
        for other in task.depends_on:
            key = (submission.run, other)
            if self._status(key, known) is not TaskStatus.SUCCEEDED:
                entry.waits_for += 1
                self.dependents.setdefault(key, []).append(entry)
        if not entry.waits_for:
            entry.status = TaskStatus.READY
            self._board.add(entry)
        self._turn.out.append(
            c.AddTask(
                entry.key,
                entry.seq,
                submission.run_title,
                task,
                entry.fingerprint,
                entry.status,
                self._turn.now,
            )
        )

    def _fail_if_doomed(self, entry: TaskEntry, task: Task, known: _KnownTasks) -> None:
        for other in task.depends_on:
            key = (entry.key[0], other)
            status = self._status(key, known)
            if status.is_terminal and status is not TaskStatus.SUCCEEDED:
                self._resolve(key, status)

    def _status(self, key: TaskKey, known: _KnownTasks) -> TaskStatus:
        there = self._known(key, known)
        if there is None:
            raise KeyError(key)
        return there.status

    # --- attempts

    def assign(self, task: TaskEntry, worker: WorkerEntry) -> None:
        task.status = check(task.status, TaskStatus.ASSIGNED)
        task.attempt += 1
        task.worker = worker
        task.assigned_at = self._turn.now
        worker.holds[task.key] = task
        self._board.freed(worker)
        self._turn.out.append(
            c.Assign(task.key, task.need.type, task.attempt, worker.profile, self._turn.now)
        )

    def start(self, task: TaskEntry, worker: WorkerEntry, at: float) -> None:
        if task.status is TaskStatus.ASSIGNED:
            task.status = check(task.status, TaskStatus.RUNNING)
            self._turn.out.append(
                c.Start(task.key, task.need.type, task.attempt, worker.profile, at)
            )

    def end(
        self,
        task: TaskEntry,
        worker: WorkerEntry,
        outcome: Outcome,
        *,
        reason: str | None = None,
        result: TaskResult | None = None,
        verdict: retry.Verdict | None = None,
    ) -> None:
        """The current attempt has ended: the task has, too, or it is ready again (unless `verdict` says)."""
        verdict = verdict or self._verdict(task, outcome)
        task.status = check(task.status, verdict.status)
        task.worker = None
        del worker.holds[task.key]
        self._board.freed(worker)
        retry_at = self._turn.now + verdict.delay if verdict.delay else None
        self._turn.out.append(
            c.EndAttempt(
                task.key,
                task.need.type,
                task.attempt,
                worker.profile,
                outcome,
                task.status,
                reason,
                result,
                retry_at,
                task.failures,
                task.losses,
                self._turn.now,
            )
        )
        if task.status.is_terminal:
            self._close(task)
            self._resolve(task.key, task.status)
        else:
            self._ready_again(task, retry_at)

    def _verdict(self, task: TaskEntry, outcome: Outcome) -> retry.Verdict:
        if outcome is Outcome.SUCCEEDED:
            return retry.Verdict(TaskStatus.SUCCEEDED)
        task.failures += outcome in {Outcome.FAILED, Outcome.TIMED_OUT}
        task.losses += outcome is Outcome.LOST
        return retry.decide(
            self._policy,
            outcome,
            failures=task.failures,
            losses=task.losses,
            max_attempts=task.max_attempts,
            chance=self._chance(),
        )

    def _ready_again(self, task: TaskEntry, retry_at: float | None) -> None:
        task.retry_at = retry_at
        if retry_at is None:
            self._board.add(task)
        else:
            heappush(self.timers, (retry_at, task.seq, task))

    def due(self) -> None:
        """Move tasks whose back-off is over to the board."""
        while self.timers and self.timers[0][0] <= self._turn.now:
            _, _, task = heappop(self.timers)
            task.retry_at = None
            self._board.add(task)

    # --- the end

    def _close(self, task: TaskEntry) -> None:
        run = task.key[0]
        del self.live[task.key]
        self._turn.ended[task.key] = c.Known(task.status, task.fingerprint)
        self._turn.runs[run] = None
        self.open[run] -= 1
        if not self.open[run]:
            del self.open[run]

    def _resolve(self, key: TaskKey, status: TaskStatus) -> None:
        """Free the dependents of a task that succeeded; fail those of one that did not, and theirs."""
        resolved = [(key, status)]
        while resolved:
            key, status = resolved.pop()
            for dependent in self.dependents.pop(key, ()):
                if dependent.status is not TaskStatus.BLOCKED:
                    continue  # another dependency has failed it
                if status is TaskStatus.SUCCEEDED:
                    self._unblock(dependent)
                    continue
                self._set(dependent, TaskStatus.FAILED, f"dependency {key[1]} {status}")
                self._close(dependent)
                resolved.append((dependent.key, dependent.status))

    def _unblock(self, dependent: TaskEntry) -> None:
        dependent.waits_for -= 1
        if not dependent.waits_for:
            self._set(dependent, TaskStatus.READY, None)
            self._board.add(dependent)

    def _set(self, task: TaskEntry, status: TaskStatus, reason: str | None) -> None:
        task.status = check(task.status, status)
        self._turn.out.append(
            c.SetStatus(task.key, task.need.type, status, reason, task.attempt, self._turn.now)
        )
