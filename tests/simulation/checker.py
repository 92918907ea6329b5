"""The one judge: what was promised, against the store, the log of commits, and what workers really did.

I1 what was acknowledged ends, in one status; I2 one result counts per task; I3 it is the current attempt's;
I4 nothing starts before its dependencies are done; I5 no attempt outlives its lease; I6 attempts are bounded;
I7 attempts are numbered upwards; I8 what was acknowledged is there; I9 nobody idles while tasks wait elsewhere.
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
from tests.simulation.idling import Idling
from tests.simulation.scenario import CALM_SECONDS
from tests.simulation.work import End, Execution
from tests.simulation.world import RETRIES, World

_LEASE, _POLICY = Lease(), LeasePolicy()
# Until a lease has surely ended: the lease, a sweep, and a last heartbeat that came late.
_LEASE_ENDS_SECONDS = _LEASE.dead_after + _POLICY.sweep_every + 10.0 + 20.0

_COUNTED = {Outcome.FAILED, Outcome.TIMED_OUT}
_TERMINAL_OUTCOMES = {
    End.SUCCEEDS: Outcome.SUCCEEDED,
    End.FAILS: Outcome.FAILED,
    End.RAISES: Outcome.FAILED,
}


@dataclass(slots=True)
class Report:
    """As Jepsen tells it; sums over seeds."""

    seeds: int = 0
    submitted: int = 0
    acknowledged: int = 0
    succeeded: int = 0
    failed: int = 0  # as they should, or given up for a reason: all that ended otherwise
    lost: int = 0
    counted_twice: int = 0
    executions: int = 0
    executed_again: int = 0  # more than once, though the first one had succeeded
    stale: int = 0
    ahead: int = 0  # attempts that waited at a worker
    recalled: int = 0  # of those
    worker_starts: int = 0
    manager_starts: int = 0
    longest_stall: float = 0.0
    virtual_hours: float = 0.0
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        for name in self.__slots__:
            mine, theirs = getattr(self, name), getattr(other, name)
            better = max(mine, theirs) if name == "longest_stall" else mine + theirs
            setattr(self, name, better)

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
        yield f"given ahead         {self.ahead:>9}   {self.recalled} of them recalled"
        yield f"worker starts       {self.worker_starts:>9}"
        yield f"manager starts      {self.manager_starts:>9}"
        yield f"longest stall       {self.longest_stall:>9.1f}   virtual seconds"


@dataclass(slots=True)
class _Held:
    """An attempt, from its assignment on."""

    attempt: int
    worker: WorkerProfile
    at: float
    ended_at: float = inf


@dataclass(slots=True)
class _Story:
    """What the log says of one task."""

    task: Task
    status: TaskStatus
    attempts: dict[int, _Held] = field(default_factory=dict)
    open: _Held | None = None
    counted: int = 0  # results that ended it, in this life
    failures: int = 0
    losses: int = 0
    hopeless: bool = False  # nobody could do it, or be sent it
    ended_at: list[tuple[float, TaskStatus]] = field(default_factory=list)
    lives: int = 1


class Checker:
    def __init__(self, world: World) -> None:
        self._world = world
        self._stories: dict[TaskKey, _Story] = {}
        self._last_seq = 0
        self.report = Report(seeds=1)

    def check(self) -> Report:
        starts = self._world.starts
        calm_from = self._world.healed_at + CALM_SECONDS
        idling = Idling(calm_from, lambda incarnation: starts[incarnation].died_at)
        for commit in self._world.disk.log:
            for wrong in idling.before(commit.at):
                self._wrong(f"I9: {wrong}")
            for command in commit.commands:
                self._take(command, commit.at)
                idling.take(command, commit.at)
        self.report.ahead, self.report.recalled = idling.ahead, idling.recalled
        for key, story in self._stories.items():
            self._check_leases(key, story)
        self._check_executions()
        self._check_end()
        self._count()
        return self.report

    def _wrong(self, what: str, key: TaskKey | None = None) -> None:
        where = f" {key[0]}/{key[1]}" if key else ""
        self.report.violations.append(f"seed {self._world.scenario.seed}:{where} {what}")

    # --- the log, commit by commit

    def _take(self, command: c.Command, at: float) -> None:
        match command:
            case c.AddTask():
                self._add(command)
            case c.Assign():
                self._assign(command, at)
            case c.StartAttempt():
                self._stories[command.key].status = TaskStatus.RUNNING
            case c.EndAttempt():
                self._end_attempt(command, at)
            case c.SetStatus():
                self._set_status(command, at)
            case c.Reopen():
                story = self._stories[command.key]
                story.status = command.status
                story.counted = story.failures = story.losses = 0
                story.hopeless = False
                story.lives += 1
            case c.RecordStaleResult():
                self.report.stale += 1
            case _:
                pass

    def _add(self, command: c.AddTask) -> None:
        if command.key in self._stories:
            self._wrong("I1: was taken in twice", command.key)
        if command.seq <= self._last_seq:
            self._wrong(f"number {command.seq} came after {self._last_seq}", command.key)
        self._last_seq = command.seq
        self._stories[command.key] = _Story(command.task, command.status)

    def _assign(self, command: c.Assign, at: float) -> None:
        story = self._stories[command.key]
        if story.status is not TaskStatus.READY:
            self._wrong(f"was assigned while {story.status}", command.key)
        if command.attempt != max(story.attempts, default=0) + 1:
            self._wrong(f"I7: attempt {command.attempt} is not the next one", command.key)
        for other in story.task.depends_on:
            self._check_dependency(command.key, story, self._stories.get((command.key[0], other)))
        story.status = TaskStatus.ASSIGNED
        story.open = story.attempts[command.attempt] = _Held(command.attempt, command.worker, at)

    def _check_dependency(self, key: TaskKey, story: _Story, other: _Story | None) -> None:
        met = other is not None and other.status is TaskStatus.SUCCEEDED
        if other is not None and story.task.on_failed_dependency == "run":
            met = other.status.is_terminal or other.lives > 1
        if not met:
            self._wrong("I4: was assigned before its dependencies were done", key)

    def _end_attempt(self, command: c.EndAttempt, at: float) -> None:
        story = self._stories[command.key]
        held = story.open
        if held is None or held.attempt != command.attempt:
            self._wrong(
                f"I3: attempt {command.attempt} ended, and was not the current one", command.key
            )
            self.report.counted_twice += command.status.is_terminal
        else:
            held.ended_at = at
            if command.result is not None:
                self._check_result(command, held)
        if command.outcome in _COUNTED:
            story.failures += 1
        if command.outcome is Outcome.LOST:
            story.losses += 1
        if command.outcome is Outcome.RETURNED and command.status is TaskStatus.DEAD_LETTERED:
            story.hopeless = True
        self._check_bounds(command.key, story)
        story.open = None
        story.status = command.status
        if command.status.is_terminal:
            self._ended(command.key, story, command.status, at)

    def _check_result(self, command: c.EndAttempt, held: _Held) -> None:
        result = command.result
        assert result is not None
        if result.attempt != command.attempt:
            self._wrong(
                f"I3: the result of attempt {result.attempt} counted for {command.attempt}",
                command.key,
            )
        if command.worker.incarnation != held.worker.incarnation:
            self._wrong("I3: a result counted that is not of the worker that had it", command.key)

    def _check_bounds(self, key: TaskKey, story: _Story) -> None:
        if story.failures > story.task.max_attempts:
            self._wrong(f"I6: failed {story.failures} times of {story.task.max_attempts}", key)
        if story.losses > RETRIES.max_losses:
            self._wrong(f"I6: was lost {story.losses} times", key)

    def _set_status(self, command: c.SetStatus, at: float) -> None:
        story = self._stories[command.key]
        if story.open is not None or story.status.is_terminal:
            self._wrong(f"became {command.status} while {story.status}", command.key)
        story.status = command.status
        if command.status is TaskStatus.DEAD_LETTERED:
            story.hopeless = True
        if command.status.is_terminal:
            self._ended(command.key, story, command.status, at)

    def _ended(self, key: TaskKey, story: _Story, status: TaskStatus, at: float) -> None:
        story.ended_at.append((at, status))
        story.counted += 1
        if story.counted > 1:
            self._wrong(f"I2: ended {story.counted} times", key)
            self.report.counted_twice += 1
        self._check_reason(key, story, status)

    def _check_reason(self, key: TaskKey, story: _Story, status: TaskStatus) -> None:
        """Nothing but success comes without a reason."""
        task = story.task
        unmet = any(
            (other := self._stories.get((key[0], id))) is None
            or (other.status.is_terminal and other.status is not TaskStatus.SUCCEEDED)
            for id in task.depends_on
        )
        if {
            TaskStatus.SUCCEEDED: True,
            TaskStatus.FAILED: bool(story.failures)
            or (unmet and task.on_failed_dependency == "fail"),
            TaskStatus.TIMED_OUT: task.deadline is not None or task.timeout is not None,
            TaskStatus.CANCELLED: key in self._world.called_off,
            TaskStatus.DEAD_LETTERED: story.losses >= RETRIES.max_losses
            or (story.hopeless and task.unroutable is Unroutable.REJECT),
        }[status]:
            return
        self._wrong(f"is {status}, for no reason", key)

    # --- leases

    def _check_leases(self, key: TaskKey, story: _Story) -> None:
        """While a worker is dead or stopped, its attempts end once a manager could have judged it."""
        for held in story.attempts.values():
            unit = self._world.starts.get(held.worker.incarnation)
            if unit is None:
                self._wrong(f"I5: attempt {held.attempt} went to nobody", key)
                continue
            silences = [*unit.pauses, (unit.died_at, inf)]
            for begins, ends in silences:
                due = self._judged_by(max(begins, held.at))
                if held.ended_at > due and ends > due and self._world.loop.time() > due:
                    self._wrong(
                        f"I5: attempt {held.attempt} was held by {held.worker.name}, silent since "
                        f"{begins:.1f}, until {held.ended_at:.1f}",
                        key,
                    )

    def _judged_by(self, since: float) -> float:
        """The end of the first stretch after `since` in which a manager led and heard, long enough."""
        begins = since
        for at in self._world.unhealthy:
            if at < begins:
                continue
            if at - begins > _LEASE_ENDS_SECONDS:
                break
            begins = at + 0.5
        return begins + _LEASE_ENDS_SECONDS

    # --- what was really done

    def _check_executions(self) -> None:
        for execution in self._world.works.executions:
            story = self._stories.get(execution.key)
            held = story.attempts.get(execution.attempt) if story else None
            if held is None or held.at > execution.began_at:
                self._wrong(
                    f"attempt {execution.attempt} began before it was given out", execution.key
                )
            elif held.worker.incarnation != execution.incarnation:
                self._wrong(
                    f"attempt {execution.attempt} was made by another worker", execution.key
                )

    def _by_attempt(self) -> dict[tuple[TaskKey, int], list[Execution]]:
        found: dict[tuple[TaskKey, int], list[Execution]] = defaultdict(list)
        for execution in self._world.works.executions:
            found[execution.key, execution.attempt].append(execution)
        return found

    # --- the end

    def _check_end(self) -> None:
        world = self._world
        rows = {(row.run, row.task.id): row for row in world.disk.memory._rows}
        for crash in world.crashes:
            self._wrong(f"crash: {crash}")
        for key in sorted(world.acknowledged - rows.keys()):
            self._wrong("I8: was acknowledged, and is not there", key)
            self.report.lost += 1
        for key in sorted(self._stories.keys() - rows.keys()):
            self._wrong("I8: was committed, and is not there", key)
            self.report.lost += 1
        executions = self._by_attempt()
        for key, row in rows.items():
            self._check_row(key, row, executions)
        self._check_counts(rows)
        for task in world._lasting:
            if not task.done() or task.cancelled():
                self._wrong("a client waits in vain")

    def _check_row(
        self, key: TaskKey, row: TaskRow, executions: dict[tuple[TaskKey, int], list[Execution]]
    ) -> None:
        story = self._stories.get(key)
        if story is None or story.status is not row.status:
            self._wrong(f"is {row.status} in the store, and not in the log", key)
        if not row.status.is_terminal:
            self._wrong(f"I1: is {row.status} at the end", key)
            self.report.lost += 1
        if row.status is TaskStatus.SUCCEEDED:
            made = executions[key, row.attempt]
            if not any(e.end is End.SUCCEEDS and e.output == row.output for e in made):
                self._wrong(f"I3: nobody has made its output {row.output!r}", key)
            if len(made) > 1:
                self._wrong(f"attempt {row.attempt} was made {len(made)} times", key)

    def _check_counts(self, rows: dict[TaskKey, TaskRow]) -> None:
        tallies: dict[str, Counter[TaskStatus]] = defaultdict(Counter)
        for row in rows.values():
            tallies[row.run][row.status] += 1
        for name, run in self._world.disk.memory._runs.items():
            counts = {status: n for status, n in run.counts.items() if n}
            if counts != tallies[name]:
                self._wrong(f"run {name} counts {counts}, it has {dict(tallies[name])}")
            if (run.finished_at is None) == all(status.is_terminal for status in counts):
                self._wrong(f"run {name}: finished_at is {run.finished_at}, {counts}")

    def _count(self) -> None:
        report, world = self.report, self._world
        report.submitted = len(world.submitted)
        report.acknowledged = len(world.acknowledged)
        statuses = [story.status for story in self._stories.values()]
        report.succeeded = sum(status is TaskStatus.SUCCEEDED for status in statuses)
        report.failed = sum(status.is_terminal for status in statuses) - report.succeeded
        report.executions = len(world.works.executions)
        done = Counter(e.key for e in world.works.executions if e.end is End.SUCCEEDS)
        report.executed_again = sum(n - 1 for n in done.values())
        report.worker_starts = len(world.starts)
        report.manager_starts = world.manager_starts
        report.virtual_hours = world.loop.time() / 3600
        report.longest_stall = self._longest_stall()

    def _longest_stall(self) -> float:
        """How long no task ended while some had not."""
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
