"""The need of a task after a failure, and when no connected worker can do the task.

`worker_skills` are the skills of the connected workers. See
docs/adr/0010-put-exclusion-and-escalation-into-the-need.md.
"""

from collections.abc import Iterable

from skillq.messages import MAX_LEVEL, MIN_LEVEL
from skillq_manager.core.model import Need, Skills
from skillq_manager.core.rules.matching import effective_skill, handles


def relaxed_need(need: Need, worker_skills: Iterable[Skills]) -> Need:
    """Return a need without specialties, or, if it has none, with one level less difficulty.

    Return the same need if no worker handles the type, because then less difficulty does not help.
    """
    if not any(handles(skills, need.type) for skills in worker_skills):
        return need
    if need.requires:
        return need._replace(requires=frozenset())
    return need._replace(difficulty=max(MIN_LEVEL, need.difficulty - 1))


def escalated_difficulty(need: Need, by: int, worker_skills: Iterable[Skills]) -> int:
    """Return the difficulty raised by `by`, but not above the most skilled worker of the type.

    A task that asks for more than any worker has would only wait.
    """
    levels = [
        effective_skill(skills, need.type)
        for skills in worker_skills
        if handles(skills, need.type) and need.requires <= skills.specialties
    ]
    most = min(MAX_LEVEL, max(levels, default=MAX_LEVEL))
    return max(need.difficulty, min(need.difficulty + by, most))


def need_for_best_worker(need: Need, worker_skills: Iterable[Skills]) -> Need:
    """Return a need that the most skilled worker of the type meets, if there is such a worker."""
    levels = [effective_skill(s, need.type) for s in worker_skills if handles(s, need.type)]
    if not levels:
        return need
    return need._replace(
        difficulty=min(need.difficulty, max(levels)),
        requires=frozenset(),
        excluded=frozenset(),
        aged=True,
    )
