"""The HTTP API: submissions, and the errors of requests."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from skillq import timings
from skillq.errors import Unreachable
from skillq.messages import (
    MAX_MESSAGE_BYTES,
)
from tests.support.manager_harness import TASKS, ApiHarness, error_line


async def test_a_submission_is_accepted_and_a_repeated_task_is_known(api: ApiHarness) -> None:
    first = await api.submit(*TASKS, run="Night Shift")
    assert first.status_code == 201
    assert first.json() == {"run": "night-shift", "accepted": 3, "known": 0}
    again = await api.submit(*TASKS, {"id": 4, "difficulty": 1}, run="Night Shift")
    assert again.json() == {"run": "night-shift", "accepted": 1, "known": 3}


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            {"tasks": [TASKS[0], {"id": 2, "difficulty": 11}]},
            "task 2: difficulty: should be at most 10, not 11",
        ),
        (
            {"tasks": [{"id": "a", "dificulty": 1}]},
            "task a: unknown field 'dificulty' (did you mean 'difficulty'?)",
        ),
        ({"tasks": [{"difficulty": 1}]}, "task number 1: id is missing"),
        ({"tasks": []}, "tasks: should have at least one item"),
        ({"tasks": TASKS, "rnu": "x"}, "unknown field 'rnu' (did you mean 'run'?)"),
        ({"tasks": TASKS, "workers": []}, "unknown field 'workers' (known are run, tasks)"),
        (
            {"tasks": [TASKS[0], TASKS[0]]},
            "task 1: two tasks have this id; give each its own",
        ),
        (
            {"tasks": [{"id": "a", "difficulty": 1, "depends_on": ["a"]}]},
            "task a: depends on itself (a → a); break the cycle",
        ),
        ([], "should be a mapping of fields to values, not []"),
        (
            {"tasks": TASKS, "run": "…"},
            "run: '…' has no letter a-z or digit to make a name from",
        ),
    ],
)
async def test_invalid_tasks_are_refused_as_a_whole_in_one_line_that_names_task_and_field(
    api: ApiHarness, body: object, line: str
) -> None:
    assert error_line(await api.http.post("/api/tasks", json=body), 422) == line
    assert (await api.get("/api/summary"))["total"] == 0


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"tasks": [NaN]}', b"[" * 100_000, b'"\\ud800"', b"\xff"]
)
async def test_a_body_that_is_not_json_is_refused(api: ApiHarness, body: bytes) -> None:
    response = await api.http.post(
        "/api/tasks", content=body, headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert error_line(response, 422).startswith("the body is not JSON: ")


@pytest.mark.parametrize("place", ["the body", "a task", "a payload"])
async def test_a_duplicate_name_in_a_json_object_is_refused(api: ApiHarness, place: str) -> None:
    twice = '"x": 1, "x": 2'
    body = {
        "the body": '{"tasks": [], "tasks": [{"id": 1, "difficulty": 1}]}',
        "a task": '{"tasks": [{"id": 1, "difficulty": 1, "difficulty": 2}]}',
        "a payload": f'{{"tasks": [{{"id": 1, "difficulty": 1, "payload": {{{twice}}}}}]}}',
    }[place]
    headers = {"Content-Type": "application/json"}
    response = await api.http.post("/api/tasks", content=body, headers=headers)
    assert "stands twice in one object" in error_line(response, 422)
    assert (await api.get("/api/summary"))["total"] == 0


@pytest.mark.parametrize(
    "media_type", ["Application/JSON", "APPLICATION/JSON; charset=utf-8", "application/json ;x=y"]
)
async def test_the_media_type_is_case_insensitive(api: ApiHarness, media_type: str) -> None:
    response = await api.http.post(
        "/api/tasks", content=json.dumps({"tasks": TASKS}), headers={"Content-Type": media_type}
    )
    assert response.status_code == 201


async def test_a_submission_needs_the_media_type_json_so_that_no_other_web_page_can_send_it(
    api: ApiHarness,
) -> None:
    response = await api.http.post(
        "/api/tasks",
        content=json.dumps({"tasks": TASKS}),
        headers={"Content-Type": "text/plain"},
    )
    assert "application/json" in error_line(response, 415)


async def test_a_refusal_by_the_manager_is_answered_with_409_and_its_reason(
    api: ApiHarness,
) -> None:
    await api.submit(*TASKS)
    changed = await api.submit({"id": 1, "difficulty": 9})
    assert "task 1 is already in run default" in error_line(changed, 409)
    missing = await api.submit({"id": 9, "difficulty": 9, "depends_on": ["nope"]})
    assert "depends on nope" in error_line(missing, 409)
    other = await api.submit({"id": 9, "difficulty": 9}, run="Default")
    assert "choose another name" in error_line(other, 409)


async def test_a_body_over_the_limit_is_refused_with_or_without_content_length(
    api: ApiHarness,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (MAX_MESSAGE_BYTES // 2)

    headers = {"Content-Type": "application/json"}
    announced = await api.http.post(
        "/api/tasks", content=b" " * (MAX_MESSAGE_BYTES + 1), headers=headers
    )
    streamed = await api.http.post("/api/tasks", content=chunks(), headers=headers)
    assert error_line(announced, 413) == error_line(streamed, 413)


async def test_a_submission_to_a_stopping_manager_is_answered_with_503(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave(submission: object) -> None:
        raise Unreachable("the manager is stopping; submit again")

    monkeypatch.setattr(api.manager, "submit", leave)
    line = error_line(await api.submit(*TASKS), 503)
    assert line == "the manager is stopping; submit again"


async def test_a_submission_that_is_not_decided_in_time_is_answered_with_503(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait_for_ever(submission: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(api.manager, "submit", wait_for_ever)
    monkeypatch.setattr(timings, "DECISION_SECONDS", 0.0)
    assert "ask again, nothing is done twice" in error_line(await api.submit(*TASKS), 503)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/api/runs/nope", "there is no run 'nope'"),
        ("/api/runs/***", "there is no run '***'"),
        ("/api/tasks/nope/1", "there is no run 'nope'"),
        ("/api/tasks/default/9", "there is no task '9' in run 'default'"),
        ("/api/tasks?run=nope", "there is no run 'nope'"),
        ("/api/tasks?worker=nope", "there was never a worker 'nope'"),
        ("/nope", "Not Found: GET /nope; /openapi.json lists what there is"),
        ("/api/runs/a%0Ab", "there is no run 'a\\nb'"),
    ],
)
async def test_a_missing_task_run_or_message_is_named(
    api: ApiHarness, path: str, line: str
) -> None:
    await api.submit(*TASKS)
    assert error_line(await api.http.get(path), 404) == line


async def test_a_wrong_method_is_answered_with_the_allowed_methods(api: ApiHarness) -> None:
    response = await api.http.delete("/api/runs")
    assert error_line(response, 405).startswith("Method Not Allowed: DELETE /api/runs")
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("limit=0", "limit: should be at least 1, not '0'"),
        ("limit=1001", "limit: should be at most 1000, not '1001'"),
        ("stats=failed", "unknown parameter 'stats'"),
        ("cursor=!", "cursor: is none that a list has answered"),
        ("cursor=ZWlucw==", "cursor: is none that a list has answered"),
        ("cursor=%C3%BC", "cursor: is none that a list has answered"),
    ],
)
async def test_an_invalid_query_parameter_is_refused(
    api: ApiHarness, query: str, line: str
) -> None:
    assert error_line(await api.http.get(f"/api/tasks?{query}"), 422) == line


async def test_an_unknown_status_is_answered_with_the_known_ones(api: ApiHarness) -> None:
    line = error_line(await api.http.get("/api/tasks?status=done"), 422)
    assert "'succeeded'" in line
    assert line.endswith("not 'done'")


async def test_an_internal_error_shows_no_traceback(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(api.store, "runs", fail)
    assert "secret" not in error_line(await api.http.get("/api/runs"), 500)
