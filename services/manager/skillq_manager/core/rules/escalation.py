"""What a task asks of a worker once it has failed, or once nobody can do it."""

from collections.abc import Iterable

from skillq.messages import MAX_LEVEL, MIN_LEVEL
from skillq_manager.core.model import Need, Skills
from skillq_manager.core.rules.matching import effective_skill, handles


def relaxed(need: Need, kinds: Iterable[Skills]) -> Need:
    """Ask for less: no specialties; then, each time, one level less. Where nobody handles the type, it is no use."""
    if not any(handles(skills, need.type) for skills in kinds):
        return need
    if need.requires:
        return need._replace(requires=frozenset())
    return need._replace(difficulty=max(MIN_LEVEL, need.difficulty - 1))


def escalated(need: Need, by: int, kinds: Iterable[Skills]) -> int:
    """So much more skill, as far as there is any: what asked for more than the best has would only wait."""
    levels = [
        effective_skill(skills, need.type)
        for skills in kinds
        if handles(skills, need.type) and need.requires <= skills.specialties
    ]
    most = min(MAX_LEVEL, max(levels, default=MAX_LEVEL))
    return max(need.difficulty, min(need.difficulty + by, most))


def for_best_worker(need: Need, kinds: Iterable[Skills]) -> Need:
    """What the most skilled worker of those that handle the type can meet."""
    levels = [effective_skill(s, need.type) for s in kinds if handles(s, need.type)]
    if not levels:
        return need
    return need._replace(
        difficulty=min(need.difficulty, max(levels)),
        requires=frozenset(),
        excluded=frozenset(),
        aged=True,
    )
