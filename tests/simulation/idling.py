"""Whether somebody idles while tasks wait at somebody else: read from the log, once nothing goes wrong any more."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from skillq.messages import TaskStatus, WorkerEventKind, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import Need, Skills, TaskKey
from skillq_manager.core.rules.matching import is_able

_PATIENCE_SECONDS = 2.0  # for a recall, a hand-back, and a disk that takes its time


@dataclass(slots=True)
class _Attempt:
    since: float
    status: TaskStatus = TaskStatus.ASSIGNED


@dataclass(slots=True)
class _Worker:
    profile: WorkerProfile
    idle_since: float
    holds: dict[TaskKey, _Attempt] = field(default_factory=dict)
    is_away: bool = False  # silent or gone

    @property
    def is_idle(self) -> bool:
        return len(self.holds) < self.profile.slots and not self.is_away


class Idling:
    """Told of every command in order; says what went wrong from `calm_from` on.

    `died_at` says of an incarnation when it did: the dead hand nothing back, and their leases end it.
    """

    def __init__(self, calm_from: float, died_at: Callable[[str], float]) -> None:
        self._calm_from = calm_from
        self._died_at = died_at
        self._workers: dict[str, _Worker] = {}
        self._needs: dict[TaskKey, Need] = {}
        self.ahead = 0  # attempts that were given ahead of a slot
        self.recalled = 0

    def before(self, at: float) -> Iterator[str]:
        """What is wrong just before a commit at that time."""
        if at < self._calm_from:
            return
        living = (w for w in self._workers.values() if at < self._died_at(w.profile.incarnation))
        for worker in living:
            for key, attempt in islice(worker.holds.items(), worker.profile.slots, None):
                waits = at - attempt.since > _PATIENCE_SECONDS
                if waits and attempt.status is TaskStatus.ASSIGNED:
                    idle = [w.profile.name for w in self._idle(key, at)]
                    if idle:
                        yield f"{key[1]} waits at {worker.profile.name} for long, while {idle} could do it"

    def _idle(self, key: TaskKey, at: float) -> Iterator[_Worker]:
        need = self._needs[key]
        for worker in self._workers.values():
            idle = worker.is_idle and at - worker.idle_since > _PATIENCE_SECONDS
            may = worker.profile.name not in need.excluded
            if idle and may and is_able(Skills.from_profile(worker.profile), need):
                yield worker

    def take(self, command: c.Command, at: float) -> None:
        match command:
            case c.AddTask():
                self._needs[command.key] = Need.from_task(command.task)
            case c.SetNeed():
                self._needs[command.key] = command.need
            case c.SaveWorker():
                self._save(command, at)
            case c.Assign():
                self._assign(command, at)
            case c.StartAttempt():
                self._workers[command.worker.name].holds[command.key].status = TaskStatus.RUNNING
            case c.EndAttempt():
                self._end(command, at)
            case c.RecallAttempts():
                self.recalled += len(command.attempts)
            case _:
                pass

    def _save(self, command: c.SaveWorker, at: float) -> None:
        name = command.profile.name
        if command.event is WorkerEventKind.CONNECTED:
            before = self._workers.get(name)
            holds = before.holds if before else {}
            self._workers[name] = _Worker(command.profile, at, holds)
        elif name in self._workers:
            self._workers[name].is_away = True

    def _assign(self, command: c.Assign, at: float) -> None:
        worker = self._workers[command.worker.name]
        worker.holds[command.key] = _Attempt(at)
        self.ahead += len(worker.holds) > worker.profile.slots

    def _end(self, command: c.EndAttempt, at: float) -> None:
        worker = self._workers[command.worker.name]
        was_idle = worker.is_idle
        worker.holds.pop(command.key, None)
        if worker.is_idle and not was_idle:
            worker.idle_since = at
