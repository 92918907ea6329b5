"""Check the promises of the product against the store, the log of commits, and the work that was really done.

I1: every acknowledged task ends, in one status. I2: one result counts for each task. I3: the counted result is of the
current attempt. I4: no task starts before its dependencies are done. I5: no attempt outlives its lease. I6: the number
of attempts is bounded. I7: the numbers of attempts only grow. I8: every acknowledged task is stored. I9: no worker is
idle while a task that it can do waits at another worker.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from skillq.messages import Lease, Outcome, Task, TaskStatus, Unroutable, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey
from skillq_manager.core.rules.leases import LeasePolicy
from skillq_manager.store.base import TaskRow
from tests.simulation.idle_workers import IdleWorkerCheck
from tests.simulation.scenario import CALM_SECONDS
from tests.simulation.work_log import Ending, Execution
from tests.simulation.world import RETRIES, World

_LEASE, _POLICY = Lease(), LeasePolicy()
# After this time a lease has surely ended: the lease, a sweep, and a last heartbeat that arrived late.
_LEASE_ENDS_SECONDS = _LEASE.dead_after + _POLICY.sweep_every + 10.0 + 20.0

_COUNTED = {Outcome.FAILED, Outcome.TIMED_OUT}
_TERMINAL_OUTCOMES = {
    Ending.SUCCEEDS: Outcome.SUCCEEDED,
    Ending.FAILS: Outcome.FAILED,
    Ending.RAISES: Outcome.FAILED,
}


@dataclass(slots=True)
class Report:
    """Counts of a run, or their sums over many seeds, as Jepsen reports them."""

    seeds: int = 0
    submitted: int = 0
    acknowledged: int = 0
    succeeded: int = 0
    failed: int = 0  # all tasks that ended without success, each for a reason
    lost: int = 0
    counted_twice: int = 0
    executions: int = 0
    executed_again: int = 0  # executions after one that had succeeded
    stale: int = 0
    prefetched: int = 0  # prefetched attempts
    recalled: int = 0  # of the prefetched attempts
    worker_starts: int = 0
    manager_starts: int = 0
    longest_stall: float = 0.0
    virtual_hours: float = 0.0
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        for name in self.__slots__:
            own, others = getattr(self, name), getattr(other, name)
            combined = max(own, others) if name == "longest_stall" else own + others
            setattr(self, name, combined)

    def lines(self) -> Iterator[str]:
        per_task = self.executions / max(1, self.acknowledged)
        yield f"seeds               {self.seeds:>9}   {self.virtual_hours:.1f} virtual hours"
        yield f"submitted           {self.submitted:>9}"
        yield f"acknowledged        {self.acknowledged:>9}"
        yield f"succeeded           {self.succeeded:>9}"
        yield f"failed as they should{self.failed:>8}"
        yield f"lost                {self.lost:>9}"
        yield f"counted twice       {self.counted_twice:>9}"
        yield f"executions          {self.executions:>9}   {per_task:.2f} per task"
        yield f"done again          {self.executed_again:>9}   the first had succeeded, and nobody knew"
        yield f"stale results       {self.stale:>9}"
        yield f"given ahead         {self.prefetched:>9}   {self.recalled} of them recalled"
        yield f"worker starts       {self.worker_starts:>9}"
        yield f"manager starts      {self.manager_starts:>9}"
        yield f"longest stall       {self.longest_stall:>9.1f}   virtual seconds"


@dataclass(slots=True)
class _Attempt:
    """An attempt since its assignment."""

    attempt: int
    worker: WorkerProfile
    at: float
    ended_at: float = inf


@dataclass(slots=True)
class _TaskHistory:
    """The history of one task in the log of commits."""

    task: Task
    status: TaskStatus
    attempts: dict[int, _Attempt] = field(default_factory=dict)
    open_attempt: _Attempt | None = None
    counted: int = 0  # results that ended the task since it was opened
    failures: int = 0
    losses: int = 0
    is_unroutable: bool = False  # no worker could do the task, or it was too large to send
    ended_at: list[tuple[float, TaskStatus]] = field(default_factory=list)
    times_opened: int = 1


class Checker:
    def __init__(self, world: World) -> None:
        self._world = world
        self._histories: dict[TaskKey, _TaskHistory] = {}
        self._last_seq = 0
        self.report = Report(seeds=1)

    def check(self) -> Report:
        starts = self._world.starts
        calm_from = self._world.faults_stopped_at + CALM_SECONDS
        idling = IdleWorkerCheck(calm_from, lambda incarnation: starts[incarnation].died_at)
        for commit in self._world.disk.log:
            for wrong in idling.violations_before(commit.at):
                self._add_violation(f"I9: {wrong}")
            for command in commit.commands:
                self._add_command(command, commit.at)
                idling.add_command(command, commit.at)
        self.report.prefetched, self.report.recalled = idling.prefetched, idling.recalled
        for key, history in self._histories.items():
            self._check_leases(key, history)
        self._check_executions()
        self._check_end()
        self._count()
        return self.report

    def _add_violation(self, what: str, key: TaskKey | None = None) -> None:
        where = f" {key[0]}/{key[1]}" if key else ""
        self.report.violations.append(f"seed {self._world.scenario.seed}:{where} {what}")

    # --- the log of commits

    def _add_command(self, command: c.Command, at: float) -> None:
        match command:
            case c.AddTask():
                self._add(command)
            case c.Assign():
                self._assign(command, at)
            case c.StartAttempt():
                self._histories[command.key].status = TaskStatus.RUNNING
            case c.EndAttempt():
                self._end_attempt(command, at)
            case c.SetStatus():
                self._set_status(command, at)
            case c.Reopen():
                history = self._histories[command.key]
                history.status = command.status
                history.counted = history.failures = history.losses = 0
                history.is_unroutable = False
                history.times_opened += 1
            case c.RecordStaleResult():
                self.report.stale += 1
            case _:
                pass

    def _add(self, command: c.AddTask) -> None:
        if command.key in self._histories:
            self._add_violation("I1: was accepted twice", command.key)
        if command.seq <= self._last_seq:
            self._add_violation(f"number {command.seq} came after {self._last_seq}", command.key)
        self._last_seq = command.seq
        self._histories[command.key] = _TaskHistory(command.task, command.status)

    def _assign(self, command: c.Assign, at: float) -> None:
        history = self._histories[command.key]
        if history.status is not TaskStatus.READY:
            self._add_violation(f"was assigned while {history.status}", command.key)
        if command.attempt != max(history.attempts, default=0) + 1:
            self._add_violation(f"I7: attempt {command.attempt} is not the next one", command.key)
        for other in history.task.depends_on:
            self._check_dependency(
                command.key, history, self._histories.get((command.key[0], other))
            )
        history.status = TaskStatus.ASSIGNED
        history.open_attempt = history.attempts[command.attempt] = _Attempt(
            command.attempt, command.worker, at
        )

    def _check_dependency(
        self, key: TaskKey, history: _TaskHistory, other: _TaskHistory | None
    ) -> None:
        met = other is not None and other.status is TaskStatus.SUCCEEDED
        if other is not None and history.task.on_failed_dependency == "run":
            met = other.status.is_terminal or other.times_opened > 1
        if not met:
            self._add_violation("I4: was assigned before its dependencies were done", key)

    def _end_attempt(self, command: c.EndAttempt, at: float) -> None:
        history = self._histories[command.key]
        held = history.open_attempt
        if held is None or held.attempt != command.attempt:
            self._add_violation(
                f"I3: attempt {command.attempt} ended, and was not the current one", command.key
            )
            self.report.counted_twice += command.status.is_terminal
        else:
            held.ended_at = at
            if command.result is not None:
                self._check_result(command, held)
        if command.outcome in _COUNTED:
            history.failures += 1
        if command.outcome is Outcome.LOST:
            history.losses += 1
        if command.outcome is Outcome.RETURNED and command.status is TaskStatus.DEAD_LETTERED:
            history.is_unroutable = True
        self._check_bounds(command.key, history)
        history.open_attempt = None
        history.status = command.status
        if command.status.is_terminal:
            self._ended(command.key, history, command.status, at)

    def _check_result(self, command: c.EndAttempt, held: _Attempt) -> None:
        result = command.result
        assert result is not None
        if result.attempt != command.attempt:
            self._add_violation(
                f"I3: the result of attempt {result.attempt} counted for {command.attempt}",
                command.key,
            )
        if command.worker.incarnation != held.worker.incarnation:
            self._add_violation(
                "I3: a result counted that is not from the worker of the attempt", command.key
            )

    def _check_bounds(self, key: TaskKey, history: _TaskHistory) -> None:
        if history.failures > history.task.max_attempts:
            self._add_violation(
                f"I6: failed {history.failures} times of {history.task.max_attempts}", key
            )
        if history.losses > RETRIES.max_losses:
            self._add_violation(f"I6: was lost {history.losses} times", key)

    def _set_status(self, command: c.SetStatus, at: float) -> None:
        history = self._histories[command.key]
        if history.open_attempt is not None or history.status.is_terminal:
            self._add_violation(f"became {command.status} while {history.status}", command.key)
        history.status = command.status
        if command.status is TaskStatus.DEAD_LETTERED:
            history.is_unroutable = True
        if command.status.is_terminal:
            self._ended(command.key, history, command.status, at)

    def _ended(self, key: TaskKey, history: _TaskHistory, status: TaskStatus, at: float) -> None:
        history.ended_at.append((at, status))
        history.counted += 1
        if history.counted > 1:
            self._add_violation(f"I2: ended {history.counted} times", key)
            self.report.counted_twice += 1
        self._check_reason(key, history, status)

    def _check_reason(self, key: TaskKey, history: _TaskHistory, status: TaskStatus) -> None:
        """Check that a status other than succeeded has a reason."""
        task = history.task
        unmet = any(
            (other := self._histories.get((key[0], id))) is None
            or (other.status.is_terminal and other.status is not TaskStatus.SUCCEEDED)
            for id in task.depends_on
        )
        if {
            TaskStatus.SUCCEEDED: True,
            TaskStatus.FAILED: bool(history.failures)
            or (unmet and task.on_failed_dependency == "fail"),
            TaskStatus.TIMED_OUT: task.deadline is not None or task.timeout is not None,
            TaskStatus.CANCELLED: key in self._world.cancel_requested,
            TaskStatus.DEAD_LETTERED: history.losses >= RETRIES.max_losses
            or (history.is_unroutable and task.unroutable is Unroutable.REJECT),
        }[status]:
            return
        self._add_violation(f"is {status} without a reason", key)

    # --- leases

    def _check_leases(self, key: TaskKey, history: _TaskHistory) -> None:
        """Check that attempts of a dead or paused worker end when a manager could notice its silence."""
        for held in history.attempts.values():
            service = self._world.starts.get(held.worker.incarnation)
            if service is None:
                self._add_violation(
                    f"I5: attempt {held.attempt} was assigned to an unknown worker", key
                )
                continue
            silences = [*service.pauses, (service.died_at, inf)]
            for begins, ends in silences:
                due = self._loss_deadline(max(begins, held.at))
                if held.ended_at > due and ends > due and self._world.loop.time() > due:
                    self._add_violation(
                        f"I5: attempt {held.attempt} was held by {held.worker.name}, silent since "
                        f"{begins:.1f}, until {held.ended_at:.1f}",
                        key,
                    )

    def _loss_deadline(self, since: float) -> float:
        """Return the end of the first long enough time after `since` in which a manager led and received."""
        begins = since
        for at in self._world.unhealthy_times:
            if at < begins:
                continue
            if at - begins > _LEASE_ENDS_SECONDS:
                break
            begins = at + 0.5
        return begins + _LEASE_ENDS_SECONDS

    # --- executions

    def _check_executions(self) -> None:
        for execution in self._world.work_log.executions:
            history = self._histories.get(execution.key)
            held = history.attempts.get(execution.attempt) if history else None
            if held is None or held.at > execution.began_at:
                self._add_violation(
                    f"attempt {execution.attempt} started before it was assigned", execution.key
                )
            elif held.worker.incarnation != execution.incarnation:
                self._add_violation(
                    f"attempt {execution.attempt} was executed by another worker", execution.key
                )

    def _executions_by_attempt(self) -> dict[tuple[TaskKey, int], list[Execution]]:
        found: dict[tuple[TaskKey, int], list[Execution]] = defaultdict(list)
        for execution in self._world.work_log.executions:
            found[execution.key, execution.attempt].append(execution)
        return found

    # --- the end

    def _check_end(self) -> None:
        world = self._world
        rows = {(row.run, row.task.id): row for row in world.disk.memory._rows}
        for crash in world.crashes:
            self._add_violation(f"crash: {crash}")
        for key in sorted(world.acknowledged - rows.keys()):
            self._add_violation("I8: was acknowledged, and is not stored", key)
            self.report.lost += 1
        for key in sorted(self._histories.keys() - rows.keys()):
            self._add_violation("I8: was committed, and is not stored", key)
            self.report.lost += 1
        executions = self._executions_by_attempt()
        for key, row in rows.items():
            self._check_row(key, row, executions)
        self._check_counts(rows)
        for task in world.client_tasks:
            if not task.done() or task.cancelled():
                self._add_violation("a client still waits at the end")

    def _check_row(
        self, key: TaskKey, row: TaskRow, executions: dict[tuple[TaskKey, int], list[Execution]]
    ) -> None:
        history = self._histories.get(key)
        if history is None or history.status is not row.status:
            self._add_violation(f"is {row.status} in the store, and not in the log", key)
        if not row.status.is_terminal:
            self._add_violation(f"I1: is {row.status} at the end", key)
            self.report.lost += 1
        if row.status is TaskStatus.SUCCEEDED:
            executed = executions[key, row.attempt]
            if not any(e.end is Ending.SUCCEEDS and e.output == row.output for e in executed):
                self._add_violation(f"I3: no execution has its output {row.output!r}", key)
            if len(executed) > 1:
                self._add_violation(
                    f"attempt {row.attempt} was executed {len(executed)} times", key
                )

    def _check_counts(self, rows: dict[TaskKey, TaskRow]) -> None:
        counts_by_run: dict[str, Counter[TaskStatus]] = defaultdict(Counter)
        for row in rows.values():
            counts_by_run[row.run][row.status] += 1
        for name, run in self._world.disk.memory._runs.items():
            counts = {status: n for status, n in run.counts.items() if n}
            if counts != counts_by_run[name]:
                self._add_violation(
                    f"run {name} counts {counts}, it has {dict(counts_by_run[name])}"
                )
            if (run.finished_at is None) == all(status.is_terminal for status in counts):
                self._add_violation(f"run {name}: finished_at is {run.finished_at}, {counts}")

    def _count(self) -> None:
        report, world = self.report, self._world
        report.submitted = len(world.submitted)
        report.acknowledged = len(world.acknowledged)
        statuses = [history.status for history in self._histories.values()]
        report.succeeded = sum(status is TaskStatus.SUCCEEDED for status in statuses)
        report.failed = sum(status.is_terminal for status in statuses) - report.succeeded
        report.executions = len(world.work_log.executions)
        done = Counter(e.key for e in world.work_log.executions if e.end is Ending.SUCCEEDS)
        report.executed_again = sum(n - 1 for n in done.values())
        report.worker_starts = len(world.starts)
        report.manager_starts = world.manager_starts
        report.virtual_hours = world.loop.time() / 3600
        report.longest_stall = self._longest_stall()

    def _longest_stall(self) -> float:
        """Return the longest time without an ended task while some tasks were open."""
        longest, open_tasks, since = 0.0, 0, 0.0
        for commit in self._world.disk.log:
            before = open_tasks
            ended = 0
            for command in commit.commands:
                if isinstance(command, c.AddTask | c.Reopen):
                    open_tasks += 1
                elif isinstance(command, c.SetStatus | c.EndAttempt):
                    ended += command.status.is_terminal
            open_tasks -= ended
            if ended and before:
                longest = max(longest, commit.at - since)
            if ended or not before:
                since = commit.at
        return longest


def check(world: World) -> Report:
    return Checker(world).check()
