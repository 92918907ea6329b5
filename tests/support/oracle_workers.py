"""The workers that are there, as an independent bookkeeper knows them, and what each may be given."""

from dataclasses import dataclass, field

from skillq.messages import WorkerEventKind, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import Need
from tests.support.oracle_rows import worker_id

DEPARTED_SECONDS = 60.0  # seconds for which a departed worker cannot come back


@dataclass
class WorkersOracle:
    by_skill: bool = True  # whether the policy looks at it
    now: float = 0.0
    heartbeats_lost: bool = False
    connected: dict[str, WorkerProfile] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    departed_at: dict[tuple[str, str], float] = field(default_factory=dict)  # said goodbye, when
    refused_types: dict[str, set[str]] = field(default_factory=dict)  # types, by worker

    def restart_manager(self) -> None:
        """Another manager leads: what only the last one knew is lost."""
        self.heartbeats_lost = False
        self.departed_at.clear()
        self.refused_types.clear()
        self.suspects.clear()

    def is_able(self, worker: WorkerProfile, need: Need, *, old: bool = False) -> bool:
        """Whether it may be given such a task, that has perhaps waited for long."""
        if need.type in self.refused_types.get(worker.name, ()) or worker.name in need.excluded:
            return False
        if worker.types is not None and need.type not in worker.types:
            return False
        if not self.by_skill:
            return True
        level = worker.skill + 2 * (need.type in worker.specialties)
        fits = level >= need.difficulty and need.requires <= set(worker.specialties)
        return fits and (need.difficulty >= worker.reserve or need.aged or old)

    def best_skill(self, need: Need) -> int:
        """The skill for it of the best who could ever be given such a task; 10 where there is nobody."""
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
