"""Users' handlers: payloads are validated, outputs are JSON, and mistakes are found at registration."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import BaseModel

from skillq.errors import UsageError
from skillq.messages import (
    MAX_PAYLOAD_BYTES,
)
from skillq_worker import Context, Handlers
from skillq_worker.execution import outputs
from skillq_worker.execution.handlers import load_handlers
from skillq_worker.execution.outputs import OutputError, to_output
from tests.support.attempt_runs import handler_error, handler_output, run_handlers
from tests.support.fake_manager import assignment

# --- the payload -----------------------------------------------------------------------------


def thumbnail(path: str, width: int = 200) -> str:
    return f"{path} at {width}"


async def test_a_payload_becomes_the_arguments() -> None:
    assert await handler_output(thumbnail, path="a.png", width=20) == "a.png at 20"


async def test_a_field_that_the_payload_lacks_has_the_default_of_the_signature() -> None:
    assert await handler_output(thumbnail, path="a.png") == "a.png at 200"


async def test_a_missing_field_fails_the_task_and_is_named() -> None:
    assert await handler_error(thumbnail) == "payload: path is missing"


async def test_a_field_that_the_signature_lacks_fails_the_task_and_is_named() -> None:
    error = await handler_error(thumbnail, path="a.png", widht=20)
    assert error == "payload: widht is unknown"


async def test_a_value_of_the_wrong_type_fails_the_task_with_field_and_value() -> None:
    error = await handler_error(thumbnail, path="a.png", width="wide")
    assert error == "payload: width: should be a whole number, not 'wide'"


async def test_a_function_without_parameters_takes_no_payload() -> None:
    assert await handler_output(lambda: 1) == 1
    assert await handler_error(lambda: 1, x=1) == "payload: x is unknown"


async def test_parameters_may_have_any_name() -> None:
    def odd(  # noqa: PLR0917
        self: int, cls: int, json: int, copy: int, schema: int, task: int, model_config: int
    ) -> int:
        return self + cls + json + copy + schema + task + model_config

    names = ["self", "cls", "json", "copy", "schema", "task", "model_config"]
    assert await handler_output(odd, **dict.fromkeys(names, 1)) == len(names)


async def test_parameters_without_annotations_take_anything() -> None:
    def echo(x, y=None):  # type: ignore[no-untyped-def]
        return [x, y]

    assert await handler_output(echo, x={"deep": [1]}) == [{"deep": [1]}, None]


class Size(BaseModel):
    width: int
    height: int = 1


@dataclass
class Point:
    x: int
    y: int


async def test_models_and_dataclasses_are_parameters_and_results() -> None:
    def grow(size: Size, at: Point, day: date, tags: set[str]) -> dict[str, object]:
        assert isinstance(size, Size)
        assert isinstance(at, Point)
        assert day == date(2026, 1, 2)
        return {"size": Size(width=2 * size.width), "at": Point(at.y, at.x), "tags": sorted(tags)}

    output = await handler_output(
        grow, size={"width": 3}, at={"x": 1, "y": 2}, day="2026-01-02", tags=["b", "a"]
    )
    assert output == {"size": {"width": 6, "height": 1}, "at": {"x": 2, "y": 1}, "tags": ["a", "b"]}


async def test_a_wrong_field_within_a_model_is_named_by_its_path() -> None:
    def grow(size: Size) -> None: ...

    error = await handler_error(grow, size={"width": "wide"})
    assert error.startswith("payload: size.width: ")


async def test_the_context_has_the_task_and_the_outputs_of_its_dependencies() -> None:
    handlers = Handlers()

    @handlers.task
    async def join(sep: str, *, context: Context) -> list[object]:
        parts = sep.join(str(value) for value in context.dependencies.values())
        return [context.token, context.run, context.id, context.priority, parts]

    task = assignment(
        "j", 3, "join", payload={"sep": "-"}, dependencies={"a": 1, "b": [2]}, priority=7
    )
    result = await run_handlers(handlers, task)
    assert result.output == ["default/j:3", "default", "j", 7, "1-[2]"]


async def test_the_context_cannot_be_forged_by_a_payload() -> None:
    async def peek(context: Context) -> None: ...

    assert "context is unknown" in await handler_error(peek, context={"run": "other"})


# --- the output ------------------------------------------------------------------------------


async def test_no_return_value_is_the_output_null() -> None:
    assert await handler_output(lambda: None) is None


NO_JSON = {
    "an object": object(),
    "bytes that are no text": b"\xff",
    "not a number": [math.nan],
    "infinity": {"loss": -math.inf},
    "half a character": "\ud800",
}


@pytest.mark.parametrize("name", NO_JSON)
async def test_an_output_that_is_not_json_fails_the_task_with_a_clear_error(name: str) -> None:
    error = await handler_error(lambda: NO_JSON[name])
    assert error.startswith("the handler returned what cannot be written as JSON: ")


async def test_an_output_that_contains_itself_fails_the_task() -> None:
    circle: list[object] = []
    circle.append(circle)
    assert "cannot be written as JSON" in await handler_error(lambda: circle)


@pytest.mark.parametrize("depth", [190, 300, 5000])
async def test_an_output_that_is_nested_too_deeply_fails_the_task(depth: int) -> None:
    deep: list[object] = []
    for _ in range(depth):
        deep = [deep]
    assert "cannot be written as JSON" in await handler_error(lambda: deep)


async def test_an_output_of_256_kib_is_accepted_and_one_byte_more_fails_the_task() -> None:
    whole = "x" * (MAX_PAYLOAD_BYTES - 2)  # and two quotation marks
    assert await handler_output(lambda: whole) == whole
    error = await handler_error(lambda: whole + "x")
    assert error == (
        f"the output is {MAX_PAYLOAD_BYTES + 1} bytes; at most {MAX_PAYLOAD_BYTES} are allowed: "
        "return a reference instead"
    )


async def test_the_size_of_an_output_is_counted_in_bytes() -> None:
    assert "are allowed" in await handler_error(lambda: "é" * (MAX_PAYLOAD_BYTES // 2))


async def test_the_size_of_an_output_is_that_of_pythons_json_module() -> None:
    """1e-06 and a comma take six bytes there; other encoders write 1e-6."""
    assert "are allowed" in await handler_error(lambda: [1e-06] * 45_000)


class Colour(StrEnum):
    RED = "red"


class Word(str):
    __slots__ = ()


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.sampled_from(
        [Colour.RED, Word("a"), Word("\ud800"), "NaN", "x" * 999, "x" * 1000, 2**63, -(2**63), 1j]
    )
)
VALUES = st.recursive(
    LEAVES,
    lambda some: st.lists(some) | st.tuples(some) | st.dictionaries(st.text() | st.floats(), some),
)


@given(VALUES)
def test_the_fast_check_of_an_output_agrees_with_the_full_check(value: object) -> None:
    def outcome() -> str:
        try:
            output = to_output(value)
        except OutputError as error:
            return str(error)
        return f"{type(output)} {output!r}"

    quick = outcome()
    with (
        patch.object(outputs, "_is_plain", lambda _: False),
        patch.object(outputs, "_is_surely_readable", lambda _: False),
    ):
        assert outcome() == quick


async def test_the_items_of_a_generator_are_the_output() -> None:
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    assert await handler_output(count, n=3) == [0, 1, 2]


# --- registering and loading -----------------------------------------------------------------


def test_two_handlers_of_one_type_are_refused() -> None:
    handlers = Handlers()
    handlers.task(thumbnail)
    with pytest.raises(
        UsageError, match="two handlers are registered for the task type 'thumbnail'"
    ):
        handlers.task("thumbnail")(lambda: 1)


@pytest.mark.parametrize("name", ["", "…", "x" * 64])
def test_a_type_that_cannot_be_a_routing_key_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="task type"):
        Handlers().task(name)(lambda: 1)


def test_parameters_that_a_payload_cannot_fill_are_refused_at_registration() -> None:
    def many(*paths: str) -> None: ...

    with pytest.raises(UsageError, match=r"handler 'many': \*paths: str cannot be filled"):
        Handlers().task(many)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return tmp_path


GOOD = "from skillq_worker import Handlers\nhandlers = Handlers()\n@handlers.task\ndef ocr(path: str) -> str: ...\n"


def test_handlers_are_found_in_the_current_folder(folder: Path) -> None:
    (folder / "found_here.py").write_text(GOOD)
    assert load_handlers("found_here:handlers").types == ("ocr",)


def test_handlers_may_be_an_attribute_of_an_attribute(folder: Path) -> None:
    (folder / "found_deep.py").write_text(GOOD + "class tasks:\n    inner = handlers\n")
    assert load_handlers("found_deep:tasks.inner").types == ("ocr",)


BAD = {
    "no_colon": ("", "bad_no_colon", "write MODULE:HANDLERS, as in my_tasks:handlers"),
    "no_attribute": ("", "bad_no_attribute:", "write MODULE:HANDLERS"),
    "no_module": ("", ":handlers", "write MODULE:HANDLERS"),
    "relative": ("", ".tasks:handlers", "does not import"),
    "missing": ("", "is_not_there:handlers", "No module named 'is_not_there'"),
    "syntax": ("def", "bad_syntax:handlers", "does not import: SyntaxError: "),
    "raises": (
        "1 / 0",
        "bad_raises:handlers",
        "does not import: ZeroDivisionError: division by zero",
    ),
    "lines": ("raise OSError('a\\nb')", "bad_lines:handlers", r"OSError: a\nb"),
    "exits": ("import sys\nsys.exit(0)", "bad_exits:handlers", "does not import: SystemExit: 0"),
    "attribute": ("x = 1", "bad_attribute:handlers", "has no handlers; it should be a Handlers()"),
    "kind": (
        "handlers = {}",
        "bad_kind:handlers",
        "has a dict as handlers; it should be a Handlers()",
    ),
    "empty": (
        "from skillq_worker import Handlers\nhandlers = Handlers()",
        "bad_empty:handlers",
        "no function is registered; decorate one with @handlers.task",
    ),
    "many": (
        "from skillq_worker import Handlers\nhandlers = Handlers()\n"
        "for n in range(1001):\n    handlers.task(f't{n}')(lambda: None)",
        "bad_many:handlers",
        "1001 types; at most 1000 are allowed: start several workers",
    ),
    "registers": (
        "from skillq_worker import Handlers\nhandlers = Handlers()\n@handlers.task\ndef f(*a): ...",
        "bad_registers:handlers",
        "handler 'f': *a cannot be filled from a payload",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_handlers_that_cannot_be_loaded_are_an_error_of_one_line(folder: Path, case: str) -> None:
    text, path, expected = BAD[case]
    (folder / f"bad_{case}.py").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_handlers(path)
    line = str(caught.value)
    assert line.startswith(f"handlers {path!r}: ")
    assert expected in line
    assert line.isprintable()
