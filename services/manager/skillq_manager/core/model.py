"""The tasks and workers that the core keeps in memory, their needs and their skills.

The core keeps tasks that have not ended and workers that are connected. Ended tasks are in the
store.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from skillq.messages import AttemptRef, Task, TaskStatus, Unroutable, WorkerProfile

TaskKey = tuple[str, str]  # run, id
DispatchKey = tuple[int, int]  # (-priority, seq): the order of the tasks that have one need
FIRST: DispatchKey = (-(2**31), 0)  # less than or equal to the key of any task


class Need(NamedTuple):
    """The requirements of a task for its worker. Ready tasks with equal needs are in one task queue."""

    type: str
    difficulty: int
    requires: frozenset[str]
    excluded: frozenset[str] = frozenset()  # names of the workers that must not try the task
    aged: bool = False  # the task has waited so long that reserved workers may take it

    @classmethod
    def from_task(cls, task: Task) -> "Need":
        """Return the need in the definition of a task."""
        return cls(task.type, task.difficulty, frozenset(task.requires))


class Skills(NamedTuple):
    """The abilities of a worker. Workers with equal skills are in one worker pool."""

    skill: int
    specialties: frozenset[str]
    types: frozenset[str] | None  # None: any type
    reserve: int = 0  # the worker gets easier tasks than this only when they have aged
    refused: frozenset[str] = frozenset()  # types for which the worker has reported no handler
    alias: str | None = None  # the worker's name, if a task excludes the worker: a pool of its own

    @classmethod
    def from_profile(cls, profile: WorkerProfile) -> "Skills":
        """Return the skills in the profile of a worker."""
        types = None if profile.types is None else frozenset(profile.types)
        return cls(profile.skill, frozenset(profile.specialties), types, profile.reserve)


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits of a task for its attempts. Many tasks share one object. Times are in seconds."""

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
        """Return the terms in the definition of a task."""
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
    """A connected worker and the attempts that it has."""

    profile: WorkerProfile
    joined: int  # position in the order in which workers connected
    last_seen: float
    suspect: bool = False  # silent for too long, or its queue was gone: gets nothing new
    draining: bool = False
    # In the order of assignment: the first `slots` of them run, the others are prefetched.
    attempts: "dict[TaskKey, TaskEntry]" = field(default_factory=dict)
    load: float = 0.0  # seconds that its short attempts are estimated to take together
    long_attempts: int = 0  # how many attempts are estimated to take long
    unknown_attempts: int = 0  # how many attempts have no estimate
    recall_pending: bool = False  # the manager recalled attempts, and none has ended since
    # Copied from the profile, because the core reads them for each task.
    skills: Skills = field(init=False)
    name: str = field(init=False)
    incarnation: str = field(init=False)
    slots: int = field(init=False)

    def __post_init__(self) -> None:
        self.set_profile(self.profile)

    def set_profile(self, profile: WorkerProfile) -> None:
        """Replace the profile, and all that is derived from it."""
        self.profile, self.skills = profile, Skills.from_profile(profile)
        self.name, self.incarnation, self.slots = profile.name, profile.incarnation, profile.slots

    @property
    def is_free(self) -> bool:
        """Return whether the worker may get a task that starts at once."""
        return not (self.suspect or self.draining) and len(self.attempts) < self.slots


@dataclass(slots=True, eq=False)
class TaskEntry:
    """A task that has not ended. Times are in seconds on the manager's clock."""

    key: TaskKey
    seq: int  # position in the order of submission
    need: Need
    priority: int
    terms: Terms
    fingerprint: int
    submitted_at: float
    status: TaskStatus
    unmet_dependencies: int = 0
    attempt: int = 0  # the number of the last attempt; the number only grows
    failures: int = 0
    losses: int = 0
    worker: WorkerEntry | None = None
    assigned_at: float = 0.0
    ready_at: float = 0.0
    retry_at: float | None = None  # the task is ready, but must not be assigned before this time
    ticket: int = 0  # number of the task's one valid entry in its task queue; 0: no entry
    # About the current attempt:
    estimate: float | None = None  # seconds that the attempt will take; None: unknown
    is_prefetched: bool = False
    started_at: float = 0.0  # when the manager received the report of the start
    recalled_at: float | None = None

    @property
    def dispatch_key(self) -> DispatchKey:
        return (-self.priority, self.seq)

    @property
    def fits_backlog(self) -> bool:
        """Return whether the store alone can keep the task until a worker is free.

        In the backlog, the core notices neither a deadline nor that the task is unroutable.
        """
        terms = self.terms
        return not self.attempt and terms.deadline is None and terms.unroutable is Unroutable.WAIT

    @property
    def ref(self) -> AttemptRef:
        return AttemptRef(run=self.key[0], id=self.key[1], attempt=self.attempt)
