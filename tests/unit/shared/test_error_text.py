"""Validation errors are worded for the user who wrote the value."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, Field, JsonValue, ValidationError
from pydantic_core import PydanticCustomError

from skillq.messages import TaskStatus, Title, WorkerProfile
from skillq.messages.error_text import plain_error, shorten, with_value


class Model(BaseModel):
    whole: int = 0
    number: Annotated[float, Field(gt=0, lt=9, allow_inf_nan=False)] = 1
    level: Annotated[int, Field(ge=1, le=10)] = 1
    flag: bool = True
    text: Annotated[str, Field(min_length=1, max_length=3)] = "a"
    name: Title = "a"
    one_of: Literal["a", "b"] = "a"
    status: TaskStatus = TaskStatus.READY
    many: Annotated[list[int], Field(min_length=1, max_length=2)] = [1]
    few: tuple[int, ...] = ()
    names: dict[str, int] = {}
    inner: WorkerProfile | None = None
    anything: JsonValue = None
    long: Annotated[str, Field(min_length=3)] = "abc"
    pair: Annotated[list[int], Field(min_length=2)] = [1, 2]


def error_text(field: str, value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({field: value})
    (error,) = caught.value.errors(include_url=False)
    return with_value(error, error["input"])


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("whole", 2.5, "should be a whole number, not 2.5"),
        ("whole", "hard", "should be a whole number, not 'hard'"),
        ("whole", None, "should be a whole number, not nothing"),
        ("whole", [True], "should be a whole number, not [True]"),
        ("whole", "9" * 5000, f"should be a whole number, not '{'9' * 58}…"),
        ("level", 0, "should be at least 1, not 0"),
        ("level", 11, "should be at most 10, not 11"),
        ("number", "soon", "should be a number, not 'soon'"),
        ("number", 0, "should be more than 0, not 0"),
        ("number", 9, "should be less than 9, not 9"),
        ("number", float("inf"), "should be a number with an end, not inf"),
        ("flag", "perhaps", "should be true or false, not 'perhaps'"),
        ("flag", [], "should be true or false, not []"),
        ("text", 1, "should be text, not 1"),
        ("text", True, "should be text, not true"),
        ("text", "", "should not be empty"),
        ("text", "long", "should have at most 3 characters, not 'long'"),
        ("name", "日本", "'日本' has no letter a-z or digit to make a name from"),
        ("long", "ab", "should have at least 3 characters, not 'ab'"),
        ("pair", [1], "should have at least 2 items, not [1]"),
        ("one_of", "c", "should be 'a' or 'b', not 'c'"),
        ("many", 1, "should be a list, not 1"),
        ("many", [], "should have at least one item"),
        ("many", [1, 2, 3], "should have at most 2 items, not [1, 2, 3]"),
        ("few", "a", "should be a list, not 'a'"),
        ("names", [], "should be a mapping of names to values, not []"),
        ("inner", 1, "should be a mapping of fields to values, not 1"),
        ("anything", {1}, "should be what JSON has, not {1}"),
    ],
)
def test_a_refused_value_is_explained_in_plain_words_and_named_once(
    field: str, value: object, line: str
) -> None:
    assert error_text(field, value) == line


def test_a_missing_field_is_reported_without_a_value() -> None:
    with pytest.raises(ValidationError) as caught:
        WorkerProfile.model_validate({"name": "ada", "title": "Ada", "skill": 3})
    (error,) = caught.value.errors()
    assert with_value(error, error["input"]) == "is missing"


def test_the_text_of_a_user_s_validator_is_kept() -> None:
    def refuse(value: Any) -> Any:
        raise ValueError("too odd")

    class Odd(BaseModel):
        width: Annotated[int, BeforeValidator(refuse)]

    with pytest.raises(ValidationError) as caught:
        Odd.model_validate({"width": 3})
    (error,) = caught.value.errors()
    assert (plain_error(error), with_value(error, 3)) == ("too odd", "too odd, not 3")


@pytest.mark.parametrize("error_type", ["enum", "too_short", "greater_than"])
def test_a_user_s_error_with_the_type_of_a_pydantic_error_keeps_its_text(error_type: str) -> None:
    def refuse(value: Any) -> Any:
        raise PydanticCustomError(error_type, "too odd")

    class Odd(BaseModel):
        width: Annotated[int, BeforeValidator(refuse)]

    with pytest.raises(ValidationError) as caught:
        Odd.model_validate({"width": 3})
    (error,) = caught.value.errors()
    assert with_value(error, 3).startswith("too odd")


def test_a_long_text_is_shortened_to_the_width() -> None:
    assert (shorten("abc", 3), shorten("abcd", 3)) == ("abc", "ab…")
