"""What the core remembers of tasks that have not ended and of workers that are there."""

from dataclasses import dataclass, field
from typing import NamedTuple

from skillq.messages import Task, TaskStatus, WorkerProfile

TaskKey = tuple[str, str]  # run, id


class Need(NamedTuple):
    """What a task asks of a worker. Tasks with equal needs form one class."""

    type: str
    difficulty: int
    requires: frozenset[str]
    excluded: frozenset[str] = frozenset()  # workers, by name, that are not to try it
    aged: bool = False  # has waited so long that reserved workers take it

    @classmethod
    def of(cls, task: Task) -> "Need":
        return cls(task.type, task.difficulty, frozenset(task.requires))


class Skills(NamedTuple):
    """What a worker can do. Workers with equal skills form one pool."""

    skill: int
    specialties: frozenset[str]
    types: frozenset[str] | None  # None: any
    refused: frozenset[str] = frozenset()  # types it has sent back

    @classmethod
    def of(cls, profile: WorkerProfile) -> "Skills":
        types = None if profile.types is None else frozenset(profile.types)
        return cls(profile.skill, frozenset(profile.specialties), types)


@dataclass(slots=True, eq=False)
class WorkerEntry:
    profile: WorkerProfile
    skills: Skills
    joined: int  # place in the order of arrival
    last_seen: float
    suspect: bool = False  # not heard of for a while, or its queue was not there
    draining: bool = False
    holds: "dict[TaskKey, TaskEntry]" = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def incarnation(self) -> str:
        return self.profile.incarnation

    @property
    def is_free(self) -> bool:
        return not (self.suspect or self.draining) and len(self.holds) < self.profile.slots


@dataclass(slots=True, eq=False)
class TaskEntry:
    key: TaskKey
    seq: int  # place in the order of submission
    need: Need
    priority: int
    max_attempts: int
    fingerprint: int
    status: TaskStatus
    waits_for: int = 0  # dependencies that have not succeeded yet
    attempt: int = 0  # the last number given out; it never goes back
    failures: int = 0
    losses: int = 0
    worker: WorkerEntry | None = None
    assigned_at: float = 0.0
    retry_at: float | None = None  # ready, but not before
    ticket: int = 0  # its valid place in the ready set; 0: none
