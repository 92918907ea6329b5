"""Keep the connected workers independently of the core, and decide which tasks each of them can do."""

from dataclasses import dataclass, field

from skillq.messages import WorkerEventKind, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import Need
from tests.support.oracle_rows import worker_id

DEPARTED_SECONDS = 60.0  # for so long a departed worker cannot connect again


@dataclass
class WorkersOracle:
    by_skill: bool = True  # whether the policy considers skill
    now: float = 0.0
    heartbeats_lost: bool = False
    connected: dict[str, WorkerProfile] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    departed_at: dict[tuple[str, str], float] = field(
        default_factory=dict
    )  # by name and incarnation
    refused_types: dict[str, set[str]] = field(default_factory=dict)  # by name of the worker

    def restart_manager(self) -> None:
        """Forget all that only the previous manager knew, and no store."""
        self.heartbeats_lost = False
        self.departed_at.clear()
        self.refused_types.clear()
        self.suspects.clear()

    def is_able(self, worker: WorkerProfile, need: Need, *, has_aged: bool = False) -> bool:
        """Return whether a worker can do a task with this need, which has perhaps aged."""
        if need.type in self.refused_types.get(worker.name, ()) or worker.name in need.excluded:
            return False
        if worker.types is not None and need.type not in worker.types:
            return False
        if not self.by_skill:
            return True
        level = worker.skill + 2 * (need.type in worker.specialties)
        fits = level >= need.difficulty and need.requires <= set(worker.specialties)
        return fits and (need.difficulty >= worker.reserve or need.aged or has_aged)

    def best_skill(self, need: Need) -> int:
        """Return the highest effective skill of the workers that handle the need, or 10 if there is none."""
        levels = [
            worker.skill + 2 * (need.type in worker.specialties)
            for worker in self.connected.values()
            if need.type not in self.refused_types.get(worker.name, ())
            and (worker.types is None or need.type in worker.types)
            and need.requires <= set(worker.specialties)
        ]
        return max(levels, default=10)

    def able_workers(self, need: Need) -> list[WorkerProfile]:
        return [worker for worker in self.connected.values() if self.is_able(worker, need)]

    def save_worker(self, command: c.SaveWorker) -> None:
        name = command.profile.name
        match command.event:
            case WorkerEventKind.CONNECTED:
                assert name not in self.connected or worker_id(self.connected[name]) == worker_id(
                    command.profile
                )
                assert self.connected.get(name) != command.profile or name in self.suspects
                assert (
                    not self.now - DEPARTED_SECONDS
                    < self.departed_at.get(worker_id(command.profile), 0.0)
                    < self.now
                )
                if self.connected.get(name) != command.profile:
                    self.refused_types.pop(name, None)
                self.connected[name] = command.profile
                self.suspects.discard(name)
            case WorkerEventKind.SUSPECT:
                assert not (self.heartbeats_lost and command.reason == "heartbeats are late")
                assert worker_id(self.connected[name]) == worker_id(command.profile)
                self.suspects.add(name)
            case WorkerEventKind.LOST | WorkerEventKind.DISCONNECTED:
                assert not (self.heartbeats_lost and command.reason.startswith("no heartbeat for"))
                self.refused_types.pop(name, None)
                assert worker_id(self.connected.pop(name)) == worker_id(command.profile)
                self.suspects.discard(name)
