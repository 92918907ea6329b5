"""Tasks are validated: ids, levels, payloads, dependencies and terms."""

from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from skillq import messages as m
from skillq.errors import UsageError
from tests.support.factories import task


@pytest.mark.parametrize("field", ["type", "requires", "retry_on", "no_retry_on"])
def test_a_label_with_a_nul_character_is_refused(field: str) -> None:
    label: Any = "qu\0ick" if field == "type" else ["qu\0ick"]
    with pytest.raises(ValidationError, match="has the character NUL; leave it out"):
        m.Task.model_validate({"id": "a", "difficulty": 1, field: label})


@pytest.mark.parametrize("difficulty", [0, 11, 2.5, "hard", None])
def test_a_difficulty_is_a_whole_number_from_1_to_10(difficulty: object) -> None:
    with pytest.raises(ValidationError):
        m.Task.model_validate({"id": "a", "difficulty": difficulty})


@pytest.mark.parametrize("id", ["", " ", "a b", "-a", ".a", "ä", "a/b", "x" * 129, 1.5, None, True])
def test_an_id_that_does_not_fit_into_a_path_is_refused(id: object) -> None:
    with pytest.raises(ValidationError):
        m.Task.model_validate({"id": id, "difficulty": 1})


def test_an_id_may_be_written_as_a_number() -> None:
    parsed = m.Task.model_validate({"id": 1, "difficulty": 2, "depends_on": [2, 2, "3"]})
    assert (parsed.id, parsed.depends_on) == ("1", ("2", "3"))


def test_a_payload_over_the_size_limit_is_refused_and_the_limit_is_named() -> None:
    fitting = "x" * (m.MAX_PAYLOAD_BYTES - len('{"a":""}'))
    task(payload={"a": fitting})
    with pytest.raises(
        ValidationError, match="is 262145 bytes; at most 262144 are allowed: pass a reference"
    ):
        task(payload={"a": fitting + "x"})


def test_the_size_of_a_payload_is_that_of_its_json() -> None:
    with pytest.raises(ValidationError, match="is 325007 bytes"):
        task(payload={"x": [float("nan")] * 65_000})


def test_tasks_with_different_definitions_have_different_fingerprints() -> None:
    a: dict[str, Any] = {"description": "Do it", "payload": {"x": 1}, "depends_on": ("b",)}
    others: list[dict[str, Any]] = [
        {"difficulty": 2}, {"payload": {"x": 2}}, {"payload": {}}, {"description": "Do"},
        {"depends_on": ("c",)}, {"depends_on": ()}, {"description": "", "payload": {}, "depends_on": ()},
    ]  # fmt: skip
    prints = [task("a", **{"difficulty": 1} | a | other).fingerprint() for other in ({}, *others)]
    assert len(set(prints)) == len(prints)
    assert prints[0] == task("a", **{"difficulty": 1} | a).fingerprint()
    assert all(0 <= number < 2**63 for number in prints)


def test_tasks_that_differ_only_in_their_ids_have_the_same_fingerprint() -> None:
    assert task("a").fingerprint() == task("b").fingerprint()
    assert task("a").definition() is task("b").definition()
    assert task("a", depends_on=("c",)).definition() != task("a").definition()


def test_tasks_that_can_be_done_are_accepted() -> None:
    m.check_tasks(
        [task("c", depends_on=("a", "elsewhere")), task("a"), task("b", depends_on=("a",))]
    )


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        ([task("a"), task("a")], "task a: two tasks have this id; give each its own"),
        ([task("a", depends_on=("a",))], "task a: depends on itself (a → a); break the cycle"),
    ],
)
def test_duplicate_or_cyclic_tasks_are_refused_and_named(tasks: list[m.Task], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        m.check_tasks(tasks)
    assert str(caught.value) == line


def test_a_cycle_is_shown_in_the_direction_of_depends_on() -> None:
    after = {"a": "b", "b": "c", "c": "a"}
    with pytest.raises(UsageError) as caught:
        m.check_tasks([task(id, depends_on=(other,)) for id, other in after.items()])
    line = str(caught.value)
    shown = line[line.index("(") + 1 : line.index(")")].split(" → ")
    assert all(after[a] == b for a, b in pairwise(shown))
    assert shown[0] == shown[-1] == line.split(":", maxsplit=1)[0].removeprefix("task ")
    assert len(shown) == 4


def test_a_chain_of_ten_thousand_tasks_is_no_cycle() -> None:
    m.check_tasks(task(str(i), depends_on=(str(i - 1),)) for i in range(1, 10_000))


# --- the terms of attempts


def test_by_default_a_task_has_one_attempt_and_waits_for_a_worker_that_can_do_it() -> None:
    default_task = m.Task(id="a", difficulty=1)
    assert (
        default_task.max_attempts,
        default_task.timeout,
        default_task.deadline,
        default_task.escalate_by,
    ) == (
        1,
        None,
        None,
        0,
    )
    assert (default_task.retry_on, default_task.no_retry_on, default_task.on_failed_dependency) == (
        (),
        (),
        "fail",
    )
    assert (default_task.unroutable, default_task.unroutable_after) == ("wait", 60.0)


@pytest.mark.parametrize("field", ["timeout", "deadline", "unroutable_after"])
def test_durations_may_have_a_unit_and_must_be_positive_and_finite(field: str) -> None:
    parsed = m.Task.model_validate({"id": "a", "difficulty": 1, field: "1.5m"})
    assert getattr(parsed, field) == 90.0
    for wrong in (0, -1, "soon", float("inf"), float("nan")):
        with pytest.raises(ValidationError, match=field):
            m.Task.model_validate({"id": "a", "difficulty": 1, field: wrong})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("escalate_by", 10),
        ("escalate_by", -1),
        ("unroutable", "panic"),
        ("on_failed_dependency", "ignore"),
        ("max_attempts", 0),
        ("max_attempts", 1001),
        ("retry_on", [""]),
    ],
)
def test_invalid_terms_are_refused(field: str, wrong: object) -> None:
    with pytest.raises(ValidationError, match=field):
        m.Task.model_validate({"id": "a", "difficulty": 1, field: wrong})


def test_terms_are_part_of_the_fingerprint_unless_they_are_the_defaults() -> None:
    default_task = m.Task(id="a", difficulty=1)
    assert default_task.fingerprint() == m.Task(id="a", difficulty=1, escalate_by=0).fingerprint()
    assert default_task.fingerprint() != m.Task(id="a", difficulty=1, escalate_by=1).fingerprint()
