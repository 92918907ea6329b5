"""Messages are decoded unchanged, or refused in one clear line."""

import json
from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import ValidationError

from skillq import messages as m
from skillq.errors import MalformedMessage
from skillq_worker.execution.outputs import to_output
from tests.support.factories import budget, connect, submission, task

# --- any message -----------------------------------------------------------------------------

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
ids = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,9}", fullmatch=True)
labels = st.sampled_from(["ocr", "GPU box", "lab-1", "task"])
texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
moments = st.floats(0, 4e9)
incarnations = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
payloads = st.dictionaries(texts, json_values, max_size=3)
refs = {"run": names, "id": ids, "attempt": st.integers(1, 1000)}
tasks = st.builds(
    m.Task,
    id=ids,
    difficulty=st.integers(1, 10),
    description=texts,
    type=labels,
    priority=st.integers(1, 100),
    requires=st.lists(labels, max_size=2),
    payload=payloads,
    timeout=st.none() | st.floats(0.001, 1e6),
    max_attempts=st.integers(1, 9),
)
profiles = st.builds(
    m.WorkerProfile,
    name=names,
    title=labels,
    incarnation=incarnations,
    skill=st.integers(1, 10),
    specialties=st.lists(labels, max_size=2),
    types=st.none() | st.lists(labels, max_size=2),
    slots=st.integers(1, 9),
)
attempts = st.lists(st.builds(m.AttemptRef, **refs), max_size=2).map(tuple)
outcomes = st.sampled_from(m.Outcome)
results = st.builds(
    m.TaskResult, **refs, outcome=outcomes, output=json_values, started_at=st.none() | moments
)
assignments = st.builds(
    m.TaskAssignment, **refs, task_type=labels, difficulty=st.integers(1, 10), payload=payloads, dependencies=payloads
)  # fmt: skip
statuses = st.sampled_from(m.TaskStatus)
events = st.builds(
    m.TaskEvent, id=ids, status=statuses, attempt=st.integers(0, 9), at=moments, output=json_values
)
common = {"worker": names, "incarnation": incarnations}


def some(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=2).map(tuple)


unique_tasks = st.lists(tasks, min_size=1, max_size=3, unique_by=lambda t: t.id).map(tuple)
ANY: dict[type, st.SearchStrategy[m.Message]] = {
    m.Submission: st.builds(m.Submission, submission_id=texts, run=names, run_title=labels, tasks=unique_tasks),
    m.StatusQuery: st.builds(m.StatusQuery, submission_id=names, number=st.integers(0, 9), run=names, store=texts, tasks=some(ids)),
    m.Connect: st.builds(m.Connect, worker=profiles, ready=st.booleans()),
    m.Disconnect: st.builds(m.Disconnect, **common, reason=texts),
    m.Heartbeat: st.builds(m.Heartbeat, worker=profiles, holds=attempts, draining=st.booleans()),
    m.TaskResults: st.builds(m.TaskResults, **common, store=texts, results=some(results)),
    m.Progress: st.builds(m.Progress, **common, store=texts, items=some(st.builds(m.ProgressItem, **refs, at=moments))),
    m.Assignments: st.builds(m.Assignments, **common, store=texts, tasks=some(assignments)),
    m.Cancel: st.builds(m.Cancel, **common, attempts=attempts, reason=texts),
    m.Stop: st.builds(m.Stop, incarnations=some(incarnations), mode=st.sampled_from(["drain", "now"]), reason=texts),
    m.TaskEvents: st.builds(m.TaskEvents, run=names, task_type=labels, events=some(events)),
    m.WorkerEvent: st.builds(m.WorkerEvent, worker=names, title=texts, incarnation=incarnations, event=st.sampled_from(m.WorkerEventKind), at=moments),
    m.RunEvent: st.builds(
        m.RunEvent, run=names, title=texts, status=st.sampled_from(m.RunStatus), at=moments,
        counts=st.dictionaries(statuses, st.integers(0, 9), max_size=2),
    ),
    m.StatusReply: st.builds(
        m.StatusReply, submission_id=names, number=st.integers(0, 9), status=st.sampled_from(m.RunStatus), store=texts,
        tasks=some(events), more=st.booleans(),
    ),
    m.Probe: st.builds(m.Probe),
}  # fmt: skip


def test_every_message_type_is_generated() -> None:
    assert set(ANY) == set(get_args(m.Message))


@given(message=st.one_of(*ANY.values()))
@budget(300)
def test_a_message_is_decoded_as_it_was_encoded(message: m.Message) -> None:
    assert m.decode(m.encode(message)) == message


@given(
    message=st.one_of(*ANY.values()),
    more=st.dictionaries(texts.map("new_".__add__), json_values, max_size=2),
)
@budget(100)
def test_fields_of_a_later_release_are_ignored(message: m.Message, more: dict[str, Any]) -> None:
    assert m.decode(json.dumps(json.loads(m.encode(message)) | more).encode()) == message


@given(body=st.binary(max_size=200) | json_values.map(json.dumps).map(str.encode))
@budget(200)
def test_any_other_bytes_raise_malformed_message_and_no_other_error(body: bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        m.decode(body)
    assert "\n" not in str(caught.value)


# --- refused messages ------------------------------------------------------------------------


def decode_error(body: bytes | dict[str, Any]) -> str:
    with pytest.raises(MalformedMessage) as caught:
        m.decode(json.dumps(body).encode() if isinstance(body, dict) else body)
    return str(caught.value)


def message_fields(message: m.Message, **more: Any) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(m.encode(message))
    return raw | more


def test_an_unknown_version_is_named() -> None:
    line = "schema_version 2 is unknown; this release reads 1"
    assert decode_error(message_fields(m.Probe(), schema_version=2)) == line


def test_a_message_without_a_version_has_the_first() -> None:
    assert m.decode(b'{"type": "probe"}') == m.Probe()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"text"'])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert decode_error(body) == "not a JSON object"


def test_an_unknown_type_is_named() -> None:
    assert "'telegram'" in decode_error({"type": "telegram"})


def test_a_missing_field_is_named() -> None:
    raw = message_fields(connect())
    del raw["worker"]["skill"]
    assert decode_error(raw) == "connect.worker.skill is missing"


def test_a_wrong_value_is_named_with_its_path_and_the_number_of_further_errors() -> None:
    raw = message_fields(connect())
    raw["worker"] |= {"skill": 11, "slots": 0}
    line = "connect.worker.skill: should be at most 10, not 11 (and 1 more)"
    assert decode_error(raw) == line


def test_a_long_wrong_value_is_cut() -> None:
    raw = message_fields(connect())
    raw["worker"]["skill"] = "x" * 10_000
    assert len(decode_error(raw)) < 200


def test_a_message_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    body = b" " * (m.MAX_MESSAGE_BYTES + 1)
    assert decode_error(body) == "a message of 1048577 bytes; at most 1048576 are allowed"
    assert m.decode(m.encode(m.Probe()).ljust(m.MAX_MESSAGE_BYTES)) == m.Probe()


def test_a_submission_with_duplicate_tasks_is_refused() -> None:
    raw = message_fields(submission(task("a")))
    raw["tasks"] *= 2
    assert decode_error(raw).startswith(
        "submission: task a: two tasks have this id; give each its own"
    )


def test_an_empty_submission_is_refused() -> None:
    assert decode_error(message_fields(submission(task("a")), tasks=[])).startswith(
        "submission.tasks: "
    )


def result(**fields: object) -> dict[str, Any]:
    one = {"run": "r", "id": "a", "attempt": 1, "outcome": "succeeded"} | fields
    return {"type": "result", "worker": "w", "incarnation": "i", "results": [one]}


@pytest.mark.parametrize(
    "body",
    [
        *(result(attempt=number) for number in (-5, 2**31, 10**25)),
        result() | {"incarnation": "zz\0"},
    ],
    ids=str,
)
def test_a_result_that_cannot_be_stored_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        m.decode(json.dumps(body).encode())


@pytest.mark.parametrize("field", ["started_at", "finished_at"])
@pytest.mark.parametrize("moment", [-1, 1e300, float("nan"), float("inf")])
def test_an_impossible_time_in_a_result_is_dropped_and_the_result_is_kept(
    field: str, moment: float
) -> None:
    read = m.decode(json.dumps(result(**{field: moment})).encode())
    assert isinstance(read, m.TaskResults)
    assert getattr(read.results[0], field) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b'{"type": "nope"}', "unknown type 'nope'"), (b"{}", "type is missing")],
)
def test_a_message_of_unknown_type_is_refused_with_a_clear_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        m.decode(body)
    assert str(caught.value) == reason


# --- contents of messages --------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [1, 1.5, True, None, [1], "a b"])
def test_an_id_in_a_message_must_be_text(wrong: object) -> None:
    tasks = [{"id": wrong, "difficulty": 1}]
    assert "tasks.0.id" in decode_error(message_fields(submission(task("a")), tasks=tasks))


def test_a_task_is_encoded_without_default_values() -> None:
    made = [task("a"), task("b", 3, payload={"x": 1}, priority=2)]
    short = [
        {"id": "a", "difficulty": 1},
        {"id": "b", "difficulty": 3, "payload": {"x": 1}, "priority": 2},
    ]
    assert message_fields(submission(*made))["tasks"] == short
    assert read(short) == read([one.model_dump(mode="json") for one in made]) == made


def read(tasks: list[dict[str, Any]]) -> list[m.Task]:
    raw = message_fields(submission(task("x")), tasks=tasks)
    return tasks_in(json.dumps(raw).encode())


def tasks_in(body: bytes) -> list[m.Task]:
    message = m.decode(body)
    assert isinstance(message, m.Submission)
    return list(message.tasks)


@given(made=tasks)
@budget(100)
def test_a_fingerprint_is_the_same_after_encoding_and_decoding(made: m.Task) -> None:
    (arrived,) = tasks_in(m.encode(submission(made)))
    assert arrived.fingerprint() == made.fingerprint()


def test_the_size_limit_of_an_output_is_in_bytes_not_characters() -> None:
    with pytest.raises(ValidationError, match="are allowed: pass a reference instead"):
        m.TaskResult(run="r", id="a", attempt=1, outcome=m.Outcome.SUCCEEDED, output="ä" * 140_000)


@pytest.mark.parametrize("number", [1e-05, 1e-07, 1e16, 0.1])
def test_an_output_that_a_worker_accepts_can_be_decoded_by_the_manager(number: float) -> None:
    """Worker and manager may write a number in different lengths."""
    most = m.MAX_PAYLOAD_BYTES // (len(repr(number)) + 1) - 1
    output = to_output([number] * most)
    ended = m.TaskResult.model_construct(
        run="r", id="a", attempt=1, outcome=m.Outcome.SUCCEEDED, output=output
    )
    arrived = m.decode(m.encode(m.TaskResults(worker="w", incarnation="i", results=(ended,))))
    assert isinstance(arrived, m.TaskResults)
    assert arrived.results[0].output == output


def test_a_reserve_level_is_at_most_10() -> None:
    facts = {"name": "a", "title": "a", "incarnation": "1", "skill": 5}
    assert m.WorkerProfile.model_validate(facts).reserve == 0
    with pytest.raises(ValidationError, match="reserve"):
        m.WorkerProfile.model_validate(facts | {"reserve": 11})
