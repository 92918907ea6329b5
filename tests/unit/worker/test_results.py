"""Results are encoded without models and decode as their models."""

import math
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from skillq.messages import Outcome, TaskResult, TaskResults, decode, encode
from skillq_worker.results import make_result, results_message
from tests.support.fake_manager import worker_profile

TEXT = st.text()
MOMENTS = st.none() | st.floats(0, 2e9)
OUTPUTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda values: st.lists(values) | st.dictionaries(TEXT, values),
)
RESULTS = st.fixed_dictionaries(
    {
        "outcome": st.sampled_from(Outcome),
        "output": OUTPUTS,
        "error": st.none() | TEXT,
        "error_types": st.lists(TEXT).map(tuple),
        "started_at": MOMENTS,
        "finished_at": MOMENTS,
    }
)


@given(st.lists(RESULTS))
def test_an_encoded_result_message_decodes_as_its_model_does(fields: list[dict[str, Any]]) -> None:
    worker = worker_profile()
    models = tuple(
        TaskResult.model_construct(run="r", id=f"t{n}", attempt=n, **one)
        for n, one in enumerate(fields)
    )
    written = [make_result(("r", f"t{n}", n), **one) for n, one in enumerate(fields)]
    sent = results_message(worker, "store", written)
    ended = TaskResults(
        worker=worker.name, incarnation=worker.incarnation, store="store", results=models
    )
    assert decode(sent.body) == decode(encode(ended))
    assert sent.type == ended.type


def test_not_a_number_is_encoded_as_null() -> None:
    assert b'"output":null' in make_result(("r", "a", 1), Outcome.SUCCEEDED, output=math.nan).body
