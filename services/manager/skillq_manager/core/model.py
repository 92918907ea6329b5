"""What the core remembers of tasks that have not ended and of workers that are there."""

from dataclasses import dataclass, field
from typing import NamedTuple

from skillq.messages import AttemptRef, Task, TaskStatus, Unroutable, WorkerProfile

TaskKey = tuple[str, str]  # run, id
DispatchKey = tuple[
    int, int
]  # (-priority, seq): in the order of these, tasks with one need are taken
FIRST: DispatchKey = (-(2**31), 0)  # none is before it


class Need(NamedTuple):
    """What a task asks of a worker. Tasks with equal needs form one class."""

    type: str
    difficulty: int
    requires: frozenset[str]
    excluded: frozenset[str] = frozenset()  # workers, by name, that are not to try it
    aged: bool = False  # has waited so long that reserved workers take it

    @classmethod
    def from_task(cls, task: Task) -> "Need":
        return cls(task.type, task.difficulty, frozenset(task.requires))


class Skills(NamedTuple):
    """What a worker can do. Workers with equal skills form one pool."""

    skill: int
    specialties: frozenset[str]
    types: frozenset[str] | None  # None: any
    reserve: int = 0  # tasks easier than this only when they have aged
    refused: frozenset[str] = frozenset()  # types it has sent back
    alias: str | None = None  # its name, where a task excludes it: then it is in a pool of its own

    @classmethod
    def from_profile(cls, profile: WorkerProfile) -> "Skills":
        types = None if profile.types is None else frozenset(profile.types)
        return cls(profile.skill, frozenset(profile.specialties), types, profile.reserve)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a task says of its attempts; many tasks share one."""

    max_attempts: int
    timeout: float | None
    deadline: float | None
    retry_on: frozenset[str]
    no_retry_on: frozenset[str]
    escalate_by: int
    runs_anyway: bool  # even if a dependency did not succeed
    unroutable: Unroutable
    unroutable_after: float

    @classmethod
    def from_task(cls, task: Task) -> "Terms":
        return cls(
            task.max_attempts,
            task.timeout,
            task.deadline,
            frozenset(task.retry_on),
            frozenset(task.no_retry_on),
            task.escalate_by,
            task.on_failed_dependency == "run",
            task.unroutable,
            task.unroutable_after,
        )


@dataclass(slots=True, eq=False)
class WorkerEntry:
    profile: WorkerProfile
    joined: int  # place in the order of arrival
    last_seen: float
    suspect: bool = False  # not heard of for a while, or its queue was not there
    draining: bool = False
    # In the order in which it got them; what is beyond its slots waits.
    attempts: "dict[TaskKey, TaskEntry]" = field(default_factory=dict)
    load: float = 0.0  # seconds that those of them that are short will take
    long: int = 0  # those that will take long
    unknown: int = 0  # those of which nobody knows
    recall_pending: bool = (
        False  # something was recalled from it, and nothing has ended there since
    )
    # What its profile says, at hand: it is asked for each task.
    skills: Skills = field(init=False)
    name: str = field(init=False)
    incarnation: str = field(init=False)
    slots: int = field(init=False)

    def __post_init__(self) -> None:
        self.set_profile(self.profile)

    def set_profile(self, profile: WorkerProfile) -> None:
        """From now on it is like that."""
        self.profile, self.skills = profile, Skills.from_profile(profile)
        self.name, self.incarnation, self.slots = profile.name, profile.incarnation, profile.slots

    @property
    def is_free(self) -> bool:
        return not (self.suspect or self.draining) and len(self.attempts) < self.slots


@dataclass(slots=True, eq=False)
class TaskEntry:
    key: TaskKey
    seq: int  # place in the order of submission
    need: Need
    priority: int
    terms: Terms
    fingerprint: int
    submitted_at: float
    status: TaskStatus
    waits_for: int = 0  # dependencies that have not succeeded yet
    attempt: int = 0  # the last number given out; it never goes back
    failures: int = 0
    losses: int = 0
    worker: WorkerEntry | None = None
    assigned_at: float = 0.0
    ready_at: float = 0.0
    retry_at: float | None = None  # ready, but not before
    ticket: int = 0  # its valid place in the ready set; 0: none
    # Of the current attempt:
    estimate: float | None = None  # seconds that it will take; None: nobody knows
    is_prefetched: bool = False  # was given ahead of a slot
    began_at: float = 0.0  # when the manager heard that it had
    recalled_at: float | None = None

    @property
    def dispatch_key(self) -> DispatchKey:
        return (-self.priority, self.seq)

    @property
    def fits_backlog(self) -> bool:
        """As long as it is ready, the store alone can keep it: nothing happens to it but that a worker is free."""
        terms = self.terms
        return not self.attempt and terms.deadline is None and terms.unroutable is Unroutable.WAIT

    @property
    def ref(self) -> AttemptRef:
        return AttemptRef(run=self.key[0], id=self.key[1], attempt=self.attempt)
