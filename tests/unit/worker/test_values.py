"""The output of a task is what its handler returned, or the attempt fails with the field and the remedy."""

import dataclasses
import math
from enum import Enum
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, RootModel, field_serializer

from skillq_worker.execution.outputs import OutputError, to_output
from tests.support.attempt_runs import handler_error, handler_output


class Loss(BaseModel):
    loss: float


class AnyLoss(BaseModel):
    """Pydantic converts NaN in such a field to None."""

    loss: Any
    note: str | None = None


class Report(BaseModel):
    losses: dict[str, list[AnyLoss]]


class Root(RootModel[float]):
    pass


@dataclasses.dataclass
class Point:
    x: float


class Pair(NamedTuple):
    x: float
    y: float


class Odd(Enum):
    WORST = math.inf


ODD: dict[str, tuple[object, str]] = {
    "nan": (math.nan, "output is nan"),
    "minus infinity": (-math.inf, "output is -inf"),
    "in a list": ([1, None, [math.nan]], "output.2.0 is nan"),
    "in a dict": ({"a": None, "loss": math.inf}, "output.loss is inf"),
    "in a tuple": ((1.0, math.inf), "output.1 is inf"),
    "in a named tuple": (Pair(1, math.nan), "output.1 is nan"),
    "in a dataclass": (Point(math.nan), "output.x is nan"),
    "in an enum": ([Odd.WORST], "output.0 is inf"),
    "in a model": (Loss(loss=math.nan), "output.loss is nan"),
    "in a root model": (Root(math.inf), "output is inf"),
    "in a field of any type": (AnyLoss(loss=math.nan), "output.loss is nan"),
    "in models in models": (
        [None, Report(losses={"a": [AnyLoss(loss=1), AnyLoss(loss=-math.inf)]})],
        "output.1.losses.a.1.loss is -inf",
    ),
    "in a dict of a field of any type": (
        AnyLoss(loss={"x": [AnyLoss(loss=math.nan)]}),
        "output.loss.x.0.loss is nan",
    ),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_output_that_json_cannot_express_fails_the_attempt_with_field_and_remedy(
    name: str,
) -> None:
    value, said = ODD[name]
    line = (
        f"the handler returned what cannot be written as JSON: {said}; return null or text instead"
    )
    assert await handler_error(lambda: value) == line


class Kind(BaseModel):
    """A model that says itself what it writes for NaN."""

    loss: Any

    @field_serializer("loss", when_used="json")
    def _null_for_nan(self, loss: float) -> float | None:
        return None if math.isnan(loss) else loss


class Short(BaseModel):
    loss: Any
    note: None = None


@pytest.mark.parametrize(
    ("value", "output"),
    [
        (None, None),
        ([None, 1.5], [None, 1.5]),
        ({"a": None, "b": "NaN"}, {"a": None, "b": "NaN"}),
        (AnyLoss(loss=1e300), {"loss": 1e300, "note": None}),
        (Kind(loss=math.nan), {"loss": None}),
        ([Short(loss=None)], [{"loss": None, "note": None}]),
    ],
    ids=str,
)
async def test_null_is_an_output_where_the_handler_returned_it(
    value: object, output: object
) -> None:
    assert await handler_output(lambda: value) == output


def test_the_items_of_a_generator_are_refused_in_the_same_way() -> None:
    with pytest.raises(OutputError, match=r"output\.1 is nan; return null"):
        to_output(number for number in (1.0, math.nan))


async def test_a_field_whose_name_a_terminal_would_obey_is_escaped() -> None:
    assert "output.\\x1b is nan" in await handler_error(lambda: {"\x1b": math.nan})
