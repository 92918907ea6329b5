"""Find workers in the log that are idle while tasks wait at other workers, after all faults."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from skillq.messages import TaskStatus, WorkerEventKind, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import Need, Skills, TaskKey
from skillq_manager.core.rules.matching import is_able

_PATIENCE_SECONDS = 2.0  # for a recall, a return, and a slow disk


@dataclass(slots=True)
class _Attempt:
    since: float
    status: TaskStatus = TaskStatus.ASSIGNED


@dataclass(slots=True)
class _Worker:
    profile: WorkerProfile
    idle_since: float
    attempts: dict[TaskKey, _Attempt] = field(default_factory=dict)
    is_disconnected: bool = False  # suspect, lost or disconnected

    @property
    def is_idle(self) -> bool:
        return len(self.attempts) < self.profile.slots and not self.is_disconnected


class IdleWorkerCheck:
    """Read every command in order, and report violations from `calm_from` on.

    `died_at` returns when an incarnation died. A dead worker returns nothing: its attempts end with its lease.
    """

    def __init__(self, calm_from: float, died_at: Callable[[str], float]) -> None:
        self._calm_from = calm_from
        self._died_at = died_at
        self._workers: dict[str, _Worker] = {}
        self._needs: dict[TaskKey, Need] = {}
        self.prefetched = 0  # attempts that were assigned without a free slot
        self.recalled = 0

    def violations_before(self, at: float) -> Iterator[str]:
        """Yield the violations just before a commit at this time."""
        if at < self._calm_from:
            return
        living = (w for w in self._workers.values() if at < self._died_at(w.profile.incarnation))
        for worker in living:
            for key, attempt in islice(worker.attempts.items(), worker.profile.slots, None):
                waits = at - attempt.since > _PATIENCE_SECONDS
                if waits and attempt.status is TaskStatus.ASSIGNED:
                    idle = [w.profile.name for w in self._idle_workers(key, at)]
                    if idle:
                        yield f"{key[1]} waits at {worker.profile.name} while {idle} could do it"

    def _idle_workers(self, key: TaskKey, at: float) -> Iterator[_Worker]:
        need = self._needs[key]
        for worker in self._workers.values():
            idle = worker.is_idle and at - worker.idle_since > _PATIENCE_SECONDS
            allowed = worker.profile.name not in need.excluded
            if idle and allowed and is_able(Skills.from_profile(worker.profile), need):
                yield worker

    def add_command(self, command: c.Command, at: float) -> None:
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
                self._workers[command.worker.name].attempts[command.key].status = TaskStatus.RUNNING
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
            holds = before.attempts if before else {}
            self._workers[name] = _Worker(command.profile, at, holds)
        elif name in self._workers:
            self._workers[name].is_disconnected = True

    def _assign(self, command: c.Assign, at: float) -> None:
        worker = self._workers[command.worker.name]
        worker.attempts[command.key] = _Attempt(at)
        self.prefetched += len(worker.attempts) > worker.profile.slots

    def _end(self, command: c.EndAttempt, at: float) -> None:
        worker = self._workers[command.worker.name]
        was_idle = worker.is_idle
        worker.attempts.pop(command.key, None)
        if worker.is_idle and not was_idle:
            worker.idle_since = at
