"""Values arrive as they were written, or are refused by the client with their name."""

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from skillq import messages as m
from skillq.client import Client, OpenRun
from skillq.client.submission import encode_tasks
from skillq.errors import UsageError
from skillq.messages.non_finite import find_non_finite
from tests.support.factories import budget
from tests.support.fake_manager_of_client import FakeManagerOfClient

ODD: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"loss": math.nan}, "payload.loss is nan"),
    "infinity": ({"loss": math.inf}, "payload.loss is inf"),
    "minus infinity": ({"a": 1, "loss": -math.inf, "z": 1}, "payload.loss is -inf"),
    "in a list": ({"x": [0.5, None, math.nan, math.inf]}, "payload.x.2 is nan"),
    "deep down": ({"x": {"y": [[{"z": math.nan}]]}}, "payload.x.y.0.0.z is nan"),
    "beside a text of that name": ({"NaN": "NaN", "y": math.inf}, "payload.y is inf"),
}


def task(payload: dict[str, Any]) -> m.Task:
    return m.Task(id="train", difficulty=1, payload=payload)


@pytest.mark.parametrize("name", ODD)
async def test_a_payload_that_json_cannot_express_is_refused_with_task_field_and_remedy(
    name: str, manager: FakeManagerOfClient, client: Client, run: OpenRun
) -> None:
    payload, said = ODD[name]
    line = f"task train: {said}, which JSON cannot express; send null or text instead"
    tasks = [m.Task(id="fine", difficulty=1), task(payload)]
    for submit in (
        lambda: client.submit("a run", tasks),
        lambda: client.complete("a run", tasks),
        lambda: run.submit(tasks),
    ):
        with pytest.raises(UsageError) as caught:
            await submit()
        assert str(caught.value) == line
    assert not manager.submissions, "nothing of it was sent"


def test_the_name_of_a_field_is_shown_without_what_a_terminal_obeys() -> None:
    with pytest.raises(UsageError) as caught:
        encode_tasks([task({"\x1b[2J": math.nan})])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("payload", [{"x": None}, {"x": "NaN"}, {"null": "Infinity"}, {"x": 1e308}])
def test_null_and_texts_of_that_name_are_sent(payload: dict[str, Any]) -> None:
    body = encode_tasks([task(payload)])["train"]
    assert m.Task.model_validate_json(body).payload == payload


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.sampled_from("ab"), some),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["x", "NaN"]), JSON))
@budget(300)
def test_a_payload_arrives_as_it_was_written_or_is_refused(payload: dict[str, Any]) -> None:
    try:
        body = encode_tasks([task(payload)])["train"]
    except UsageError:
        assert find_non_finite(payload, "payload") is not None
    else:
        assert m.Task.model_validate_json(body).payload == payload


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity"])
def test_what_an_earlier_client_sent_is_still_read(written: str) -> None:
    body = (
        '{"type": "submission", "submission_id": "1", "run": "r", "run_title": "r",'
        f' "tasks": [{{"id": "a", "difficulty": 1, "payload": {{"x": {written}}}}}]}}'
    )
    message = m.decode(body.encode())
    assert isinstance(message, m.Submission)
    assert message.tasks[0].payload.keys() == {"x"}
