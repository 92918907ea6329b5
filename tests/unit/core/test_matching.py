"""The policies decide which workers can do a task, and which one is best."""

import pytest

from skillq_manager.core.model import Need, Skills
from skillq_manager.core.rules.matching import (
    Arrival,
    BestFit,
    Policy,
    effective_skill,
    handles,
    is_able,
    why_not,
    why_unable,
)
from tests.support.factories import need, profile, task_entry, worker_entry


def skills(
    skill: int, *specialties: str, types: tuple[str, ...] | None = None, reserve: int = 0
) -> Skills:
    return Skills.from_profile(
        profile(skill=skill, specialties=specialties, types=types, reserve=reserve)
    )


def test_a_specialty_is_worth_two_levels_for_its_type_only() -> None:
    assert effective_skill(skills(6, "ocr"), "ocr") == 8
    assert effective_skill(skills(6, "ocr"), "gpu") == 6


def test_a_worker_without_a_list_of_types_handles_all_types() -> None:
    assert handles(skills(1), "anything")


def test_a_worker_with_a_list_of_types_handles_only_these_types() -> None:
    assert handles(skills(1, types=("ocr",)), "ocr")
    assert not handles(skills(1, types=("ocr",)), "gpu")


def test_a_type_that_was_refused_is_not_handled() -> None:
    assert not handles(skills(1)._replace(refused=frozenset({"ocr"})), "ocr")


@pytest.mark.parametrize(
    ("worker_skills", "task_need", "expected"),
    [
        (skills(5), need(difficulty=5), True),
        (skills(5), need(difficulty=6), False),
        (skills(5, "ocr"), need("ocr", difficulty=7), True),
        (skills(5, "ocr"), need("ocr", difficulty=8), False),
        (skills(9), need(requires=["lab"]), False),
        (skills(9, "lab"), need(requires=["lab"]), True),
        (skills(9, types=("gpu",)), need("ocr"), False),
    ],
)
def test_an_able_worker_has_the_skill_the_specialties_and_the_type(
    worker_skills: Skills, task_need: Need, expected: bool
) -> None:
    assert is_able(worker_skills, task_need) is expected
    assert BestFit().can(worker_skills, task_need) is expected


def test_best_fit_prefers_the_smallest_surplus_then_the_fewest_spare_specialties() -> None:
    fit = BestFit().fit
    task_need = need("ocr", 5, ["lab"])
    order = [
        skills(5, "lab"),
        skills(4, "ocr", "lab"),
        skills(4, "ocr", "lab", "gpu"),
        skills(9, "lab"),
    ]
    assert fit(order[0], task_need) < fit(order[2], task_need) < fit(order[3], task_need)
    assert [fit(worker_skills, task_need) for worker_skills in order] == [
        (0, 0),
        (1, 0),
        (1, 1),
        (4, 0),
    ]


def test_best_fit_prefers_the_least_loaded_of_equal_workers() -> None:
    busy, idle = worker_entry(1, title="ada", slots=2), worker_entry(2, title="bob", slots=2)
    busy.attempts["run", "1"] = task_entry(1)
    assert BestFit().worker_rank(idle) < BestFit().worker_rank(busy)


def test_best_fit_takes_urgent_then_difficult_then_early_tasks_first() -> None:
    urgent, hard = task_entry(4, need(difficulty=1), priority=2), task_entry(3, need(difficulty=9))
    early, late = task_entry(1), task_entry(2)
    assert sorted([late, early, hard, urgent], key=BestFit().task_rank) == [
        urgent,
        hard,
        early,
        late,
    ]


def test_arrival_ranks_by_order_and_ignores_skill() -> None:
    policy = Arrival()
    assert policy.can(skills(1), need(difficulty=10, requires=["lab"]))
    assert not policy.can(skills(9, types=("gpu",)), need("ocr"))
    assert policy.task_rank(task_entry(1)) < policy.task_rank(
        task_entry(2, need(difficulty=9), priority=9)
    )
    assert policy.worker_rank(worker_entry(1, title="zoe")) < policy.worker_rank(
        worker_entry(2, title="ada")
    )


def test_for_arrival_workers_differ_only_in_their_types() -> None:
    relevant_skills = Arrival().relevant_skills
    assert relevant_skills(skills(1, "ocr")) == relevant_skills(skills(9))
    assert relevant_skills(skills(1, types=("ocr",))) != relevant_skills(skills(1))


@pytest.mark.parametrize(
    ("all_skills", "reason"),
    [
        ([], "no worker is connected"),
        ([skills(9, types=("gpu",))], "no worker handles the type 'ocr'"),
        ([skills(9, "fax")], "no worker has the specialties it requires: fax, lab"),
        ([skills(5, "fax", "lab"), skills(6, "fax", "lab")], "no worker can do it: it needs skill 8, the best has 6"),
    ],
)  # fmt: skip
def test_the_reason_why_no_worker_can_do_a_task_is_a_sentence(
    all_skills: list[Skills], reason: str
) -> None:
    assert why_unable(all_skills, need("ocr", 8, ["lab", "fax"])) == reason


@pytest.mark.parametrize(
    ("worker_skills", "reason"),
    [
        (skills(9, types=("gpu",)), "does not handle the type 'ocr'"),
        (skills(9, "fax"), "lacks the specialties lab"),
        (skills(5, "ocr", "fax", "lab"), "has skill 7 for it; it needs 8"),
        (skills(9, "fax", "lab", reserve=9), "is reserved for tasks of difficulty 9 or more, until this one has waited for long"),
    ],
)  # fmt: skip
def test_the_reason_why_a_worker_cannot_do_a_task_follows_its_name(
    worker_skills: Skills, reason: str
) -> None:
    task_need = need("ocr", 8, ["lab", "fax"])
    assert not is_able(worker_skills, task_need)
    assert why_not(worker_skills, task_need) == reason


def test_a_reserved_worker_can_do_easy_tasks_only_if_they_have_aged() -> None:
    reserved = skills(9, reserve=5)
    assert is_able(reserved, need(difficulty=5))
    assert not is_able(reserved, need(difficulty=4))
    assert is_able(reserved, need(difficulty=4, aged=True))
    assert Arrival().relevant_skills(reserved).reserve == 0
    assert why_unable([reserved], need(difficulty=4)) == (
        "no worker may take it: those who could are reserved for harder tasks, or failed it before"
    )


@pytest.mark.parametrize("policy", [BestFit(), Arrival()])
def test_an_excluded_worker_cannot_do_the_task(policy: Policy) -> None:
    ada = skills(9)._replace(alias="ada")
    assert not policy.can(ada, need(excluded=["ada", "bob"]))
    assert policy.can(ada, need(excluded=["bob"]))
    assert policy.can(skills(9), need(excluded=["ada"]))
