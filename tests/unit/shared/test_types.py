"""Names, durations and labels: which values are accepted, and how they are normalised."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from skillq import messages as m
from tests.support.factories import budget, profile


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Junior", "junior"),
        ("GPU box 1", "gpu-box-1"),
        ("--a__b--", "a-b"),
        ("Zoë", "zo"),
        ("7", "7"),
        ("x" * 63, "x" * 63),
    ],
)
def test_a_name_is_made_from_a_title(written: str, name: str) -> None:
    assert m.slug(written) == name


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("", "'' has no letter a-z or digit to make a name from"),
        ("日本", "'日本' has no letter a-z or digit to make a name from"),
        ("x" * 64, f"{'x' * 64!r} is longer than 63 characters"),
    ],
)
def test_a_title_that_makes_no_name_is_refused_with_the_reason(written: str, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        m.slug(written)
    assert str(caught.value) == line


def test_the_name_all_is_reserved_for_workers_only() -> None:
    m.Task(id="all", difficulty=1, type="all", requires=("all",))
    m.Submission(
        submission_id="s", run="all", run_title="All", tasks=(m.Task(id="a", difficulty=1),)
    )
    for name in ("name", "title"):
        fields = {"name": "ada", "title": "Ada", "incarnation": "1", "skill": 5} | {name: "all"}
        with pytest.raises(ValidationError, match="'all' is reserved: choose another name"):
            m.WorkerProfile.model_validate(fields)


@given(written=st.text(max_size=80))
@budget(300)
def test_a_name_is_one_word_of_a_routing_key_and_makes_itself(written: str) -> None:
    try:
        name = m.slug(written)
    except ValueError:
        return
    assert TypeAdapter(m.Name).validate_python(name) == name
    assert m.slug(name) == name


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(30, 30.0), (0.5, 0.5), ("40", 40.0), ("30s", 30.0), (" 1.5 m ", 90.0), ("2h", 7200.0), ("1d", 86400.0), ("250ms", 0.25)],
)  # fmt: skip
def test_a_duration_is_a_number_with_or_without_a_unit(written: object, seconds: float) -> None:
    assert TypeAdapter(m.Seconds).validate_python(written) == seconds


@pytest.mark.parametrize(
    "written",
    [0, -1, "0s", "-1s", "soon", "1w", "infinity", float("nan"), float("-inf"), "1 2s", None],
)
def test_any_other_duration_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(m.Seconds).validate_python(written)


def test_duplicate_labels_are_removed() -> None:
    assert profile(specialties=("ocr", "gpu", "ocr")).specialties == ("ocr", "gpu")
