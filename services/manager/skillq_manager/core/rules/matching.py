"""Rules that match tasks with workers; `dispatch.board.Board` applies them.

Best fit gives a task to the free worker with the smallest surplus among those that can do it. It
takes the task with the highest priority first, then the hardest: list scheduling under
grade-of-service eligibility (Hwang, Chang and Lee, "Parallel machine scheduling under a grade of
service provision", 2004).
See docs/adr/0011-reserve-workers-with-ageing.md.
"""

from collections.abc import Sequence
from typing import Protocol

from skillq.messages import SPECIALTY_BONUS
from skillq_manager.core.model import Need, Skills, TaskEntry, WorkerEntry

Order = tuple[float | int | str, ...]


def effective_skill(skills: Skills, task_type: str) -> int:
    """Return the skill level, plus 2 if the task's type is a specialty."""
    return skills.skill + (SPECIALTY_BONUS if task_type in skills.specialties else 0)


def handles(skills: Skills, task_type: str) -> bool:
    """Return whether workers with these skills have a handler for the type."""
    if task_type in skills.refused:
        return False
    return skills.types is None or task_type in skills.types


def may_try(skills: Skills, need: Need) -> bool:
    """Return whether a worker handles the type and is not excluded."""
    return handles(skills, need.type) and skills.alias not in need.excluded


def is_able(skills: Skills, need: Need) -> bool:
    """Return whether a worker with these skills may do a task with this need, under best fit."""
    return (
        may_try(skills, need)
        and need.requires <= skills.specialties
        and effective_skill(skills, need.type) >= need.difficulty
        and (need.aged or need.difficulty >= skills.reserve)
    )


def why_unable(worker_skills: Sequence[Skills], need: Need) -> str:
    """Return, as a sentence, why none of these workers can meet a need."""
    if not worker_skills:
        return "no worker is connected"
    handling = [skills for skills in worker_skills if handles(skills, need.type)]
    if not handling:
        return f"no worker handles the type {need.type!r}"
    specialised = [skills for skills in handling if need.requires <= skills.specialties]
    if not specialised:
        return f"no worker has the specialties it requires: {', '.join(sorted(need.requires))}"
    best = max(effective_skill(skills, need.type) for skills in specialised)
    if best < need.difficulty:
        return f"no worker can do it: it needs skill {need.difficulty}, the best has {best}"
    return (
        "no worker may take it: those who could are reserved for harder tasks, or failed it before"
    )


def why_not(skills: Skills, need: Need) -> str:
    """Return why a worker cannot meet a need, in words that can follow the name of the worker."""
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
    """Decide which worker gets which task. In all three orders, the smaller value goes first.

    `looks_ahead`: workers without a free slot may get prefetched attempts. `allows_backlog`: tasks
    with one need go in the order of their dispatch keys, so that the store can keep the last ones.
    """

    looks_ahead: bool
    allows_backlog: bool

    def relevant_skills(self, skills: Skills) -> Skills:
        """Return the skills without what does not matter; workers with equal ones form a pool."""
        ...

    def can(self, skills: Skills, need: Need) -> bool:
        """Return whether workers with these skills may get tasks with this need."""
        ...

    def task_rank(self, task: TaskEntry) -> Order:
        """Return the position of a task among all tasks that could be matched."""
        ...

    def fit(self, skills: Skills, need: Need) -> Order:
        """Return how well skills suit a need."""
        ...

    def worker_rank(self, worker: WorkerEntry) -> Order:
        """Return the position of a worker among those that suit equally well."""
        ...


class BestFit:
    """Prefer the least skilled worker that can do a task; high priority first, then hard."""

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
    """Give the first task to the first worker, able or not, as the tutorial does."""

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
