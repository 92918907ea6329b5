"""Who can do what, and who should: pure rules that `ready.Board` applies.

Best fit gives a task to the free eligible worker with the smallest surplus, and takes the most urgent,
then the hardest task first: list scheduling under grade-of-service eligibility (Hwang, Chang and Lee,
"Parallel machine scheduling under a grade of service provision", 2004).
"""

from collections.abc import Sequence
from typing import Protocol

from skillq.messages import SPECIALTY_BONUS
from skillq_manager.core.model import Need, Skills, TaskEntry, WorkerEntry

Order = tuple[float | int | str, ...]


def effective_skill(skills: Skills, task_type: str) -> int:
    """Skill level, +2 where the task's type is among the specialties."""
    return skills.skill + (SPECIALTY_BONUS if task_type in skills.specialties else 0)


def handles(skills: Skills, task_type: str) -> bool:
    if task_type in skills.refused:
        return False
    return skills.types is None or task_type in skills.types


def may_try(skills: Skills, need: Need) -> bool:
    """Whether it handles the type, and has not been excluded."""
    return handles(skills, need.type) and skills.alias not in need.excluded


def is_able(skills: Skills, need: Need) -> bool:
    return (
        may_try(skills, need)
        and need.requires <= skills.specialties
        and effective_skill(skills, need.type) >= need.difficulty
        and (need.aged or need.difficulty >= skills.reserve)
    )


def why_unable(fleet: Sequence[Skills], need: Need) -> str:
    """Why none of these workers can meet a need, in a sentence."""
    if not fleet:
        return "no worker is connected"
    skilled = [skills for skills in fleet if handles(skills, need.type)]
    if not skilled:
        return f"no worker handles the type {need.type!r}"
    special = [skills for skills in skilled if need.requires <= skills.specialties]
    if not special:
        return f"no worker has the specialties it requires: {', '.join(sorted(need.requires))}"
    best = max(effective_skill(skills, need.type) for skills in special)
    if best < need.difficulty:
        return f"no worker can do it: it needs skill {need.difficulty}, the best has {best}"
    return (
        "no worker may take it: those who could are reserved for harder tasks, or failed it before"
    )


def why_not(skills: Skills, need: Need) -> str:
    """Why this worker cannot meet a need, in a few words that go on after its name."""
    if not handles(skills, need.type):
        return f"does not handle the type {need.type!r}"
    lacks = need.requires - skills.specialties
    if lacks:
        return f"lacks the specialties {', '.join(sorted(lacks))}"
    level = effective_skill(skills, need.type)
    if level < need.difficulty:
        return f"has skill {level} for it; it needs {need.difficulty}"
    return f"is reserved for tasks of difficulty {skills.reserve} or more, until this one has waited for long"


class Policy(Protocol):
    """Smaller comes first, in all three orders.

    `looks_ahead`: workers without a free slot may be given tasks that wait there.
    `shelves`: tasks with one need go in the order of their `place`, so that a store can keep those behind.
    """

    looks_ahead: bool
    allows_backlog: bool

    def relevant_skills(self, skills: Skills) -> Skills:
        """What of the skills matters; workers that are equal in it are looked at together."""
        ...

    def can(self, skills: Skills, need: Need) -> bool:
        """Whether workers with these skills may be given tasks with this need."""
        ...

    def task_rank(self, task: TaskEntry) -> Order:
        """Which task goes first."""
        ...

    def fit(self, skills: Skills, need: Need) -> Order:
        """Which skills suit a need best."""
        ...

    def worker_rank(self, worker: WorkerEntry) -> Order:
        """Which of the workers that suit equally well."""
        ...


class BestFit:
    """The least-skilled worker that can do it; urgent, then hard tasks first."""

    looks_ahead = True
    allows_backlog = True

    def relevant_skills(self, skills: Skills) -> Skills:
        return skills

    def can(self, skills: Skills, need: Need) -> bool:
        return is_able(skills, need)

    def task_rank(self, task: TaskEntry) -> Order:
        return (-task.priority, -task.need.difficulty, task.seq)

    def fit(self, skills: Skills, need: Need) -> Order:
        surplus = effective_skill(skills, need.type) - need.difficulty
        spare = len(skills.specialties - need.requires - {need.type})
        return (surplus, spare)

    def worker_rank(self, worker: WorkerEntry) -> Order:
        return (len(worker.attempts) / worker.slots, worker.name)


class Arrival:
    """The tutorial's pairing: first task to first worker, able or not."""

    looks_ahead = False
    allows_backlog = False

    def relevant_skills(self, skills: Skills) -> Skills:
        return skills._replace(skill=0, specialties=frozenset(), reserve=0)

    def can(self, skills: Skills, need: Need) -> bool:
        return may_try(skills, need)

    def task_rank(self, task: TaskEntry) -> Order:
        return (task.seq,)

    def fit(self, skills: Skills, need: Need) -> Order:
        return ()

    def worker_rank(self, worker: WorkerEntry) -> Order:
        return (worker.joined,)
