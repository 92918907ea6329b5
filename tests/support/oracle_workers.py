"""The workers that are there, as an independent bookkeeper knows them, and what each may be given."""

from dataclasses import dataclass, field

from skillq.messages import WorkerEventKind, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import Need
from tests.support.oracle_rows import who

MEMORY = 60.0  # seconds for which a departed worker cannot come back


@dataclass
class Crew:
    by_skill: bool = True  # whether the policy looks at it
    now: float = 0.0
    blind: bool = False
    here: dict[str, WorkerProfile] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    gone: dict[tuple[str, str], float] = field(default_factory=dict)  # said goodbye, when
    refused: dict[str, set[str]] = field(default_factory=dict)  # types, by worker

    def forget(self) -> None:
        """Another manager leads: what only the last one knew is lost."""
        self.blind = False
        self.gone.clear()
        self.refused.clear()
        self.suspects.clear()

    def is_able(self, worker: WorkerProfile, need: Need, *, old: bool = False) -> bool:
        """Whether it may be given such a task, that has perhaps waited for long."""
        if need.type in self.refused.get(worker.name, ()) or worker.name in need.excluded:
            return False
        if worker.types is not None and need.type not in worker.types:
            return False
        if not self.by_skill:
            return True
        level = worker.skill + 2 * (need.type in worker.specialties)
        fits = level >= need.difficulty and need.requires <= set(worker.specialties)
        return fits and (need.difficulty >= worker.reserve or need.aged or old)

    def best(self, need: Need) -> int:
        """The skill for it of the best who could ever be given such a task; 10 where there is nobody."""
        levels = [
            worker.skill + 2 * (need.type in worker.specialties)
            for worker in self.here.values()
            if need.type not in self.refused.get(worker.name, ())
            and (worker.types is None or need.type in worker.types)
            and need.requires <= set(worker.specialties)
        ]
        return max(levels, default=10)

    def able(self, need: Need) -> list[WorkerProfile]:
        return [worker for worker in self.here.values() if self.is_able(worker, need)]

    def save(self, command: c.SaveWorker) -> None:
        name = command.profile.name
        match command.event:
            case WorkerEventKind.CONNECTED:
                assert name not in self.here or who(self.here[name]) == who(command.profile)
                assert self.here.get(name) != command.profile or name in self.suspects
                assert not self.now - MEMORY < self.gone.get(who(command.profile), 0.0) < self.now
                if self.here.get(name) != command.profile:
                    self.refused.pop(name, None)
                self.here[name] = command.profile
                self.suspects.discard(name)
            case WorkerEventKind.SUSPECT:
                assert not (self.blind and command.reason == "heartbeats are late")
                assert who(self.here[name]) == who(command.profile)
                self.suspects.add(name)
            case WorkerEventKind.LOST | WorkerEventKind.DISCONNECTED:
                assert not (self.blind and command.reason.startswith("no heartbeat for"))
                self.refused.pop(name, None)
                assert who(self.here.pop(name)) == who(command.profile)
                self.suspects.discard(name)
