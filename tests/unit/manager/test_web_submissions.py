"""The manager's window: what it takes, and what it refuses, and how."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from skillq import timings
from skillq.errors import Unreachable
from skillq.messages import (
    MAX_MESSAGE_BYTES,
)
from tests.unit.manager.desk import TASKS, Desk, refused


async def test_a_submission_is_taken_in_and_the_same_again_is_known(desk: Desk) -> None:
    first = await desk.submit(*TASKS, run="Night Shift")
    assert first.status_code == 201
    assert first.json() == {"run": "night-shift", "accepted": 3, "known": 0}
    again = await desk.submit(*TASKS, {"id": 4, "difficulty": 1}, run="Night Shift")
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
async def test_bad_tasks_are_refused_as_a_whole_in_one_line_that_names_item_and_field(
    desk: Desk, body: object, line: str
) -> None:
    assert refused(await desk.http.post("/api/tasks", json=body), 422) == line
    assert (await desk.get("/api/summary"))["total"] == 0


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"tasks": [NaN]}', b"[" * 100_000, b'"\\ud800"', b"\xff"]
)
async def test_a_body_that_is_no_json_is_refused(desk: Desk, body: bytes) -> None:
    response = await desk.http.post(
        "/api/tasks", content=body, headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert refused(response, 422).startswith("the body is not JSON: ")


@pytest.mark.parametrize("where", ["the body", "a task", "a payload"])
async def test_a_name_that_stands_twice_is_refused_instead_of_taking_the_last(
    desk: Desk, where: str
) -> None:
    twice = '"x": 1, "x": 2'
    body = {
        "the body": '{"tasks": [], "tasks": [{"id": 1, "difficulty": 1}]}',
        "a task": '{"tasks": [{"id": 1, "difficulty": 1, "difficulty": 2}]}',
        "a payload": f'{{"tasks": [{{"id": 1, "difficulty": 1, "payload": {{{twice}}}}}]}}',
    }[where]
    headers = {"Content-Type": "application/json"}
    response = await desk.http.post("/api/tasks", content=body, headers=headers)
    assert "stands twice in one object" in refused(response, 422)
    assert (await desk.get("/api/summary"))["total"] == 0


@pytest.mark.parametrize(
    "media_type", ["Application/JSON", "APPLICATION/JSON; charset=utf-8", "application/json ;x=y"]
)
async def test_a_media_type_is_the_same_in_any_letters(desk: Desk, media_type: str) -> None:
    response = await desk.http.post(
        "/api/tasks", content=json.dumps({"tasks": TASKS}), headers={"Content-Type": media_type}
    )
    assert response.status_code == 201


async def test_a_web_page_cannot_submit_behind_its_readers_back(desk: Desk) -> None:
    response = await desk.http.post(
        "/api/tasks",
        content=json.dumps({"tasks": TASKS}),
        headers={"Content-Type": "text/plain"},
    )
    assert "application/json" in refused(response, 415)


async def test_what_the_manager_refuses_is_a_conflict_with_its_reason(desk: Desk) -> None:
    await desk.submit(*TASKS)
    changed = await desk.submit({"id": 1, "difficulty": 9})
    assert "task 1 is already in run default" in refused(changed, 409)
    missing = await desk.submit({"id": 9, "difficulty": 9, "depends_on": ["nope"]})
    assert "depends on nope" in refused(missing, 409)
    other = await desk.submit({"id": 9, "difficulty": 9}, run="Default")
    assert "choose another name" in refused(other, 409)


async def test_a_body_over_the_limit_is_refused_announced_or_not(desk: Desk) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (MAX_MESSAGE_BYTES // 2)

    headers = {"Content-Type": "application/json"}
    announced = await desk.http.post(
        "/api/tasks", content=b" " * (MAX_MESSAGE_BYTES + 1), headers=headers
    )
    streamed = await desk.http.post("/api/tasks", content=chunks(), headers=headers)
    assert refused(announced, 413) == refused(streamed, 413)


async def test_a_manager_that_stops_meanwhile_says_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave(submission: object) -> None:
        raise Unreachable("the manager is stopping; submit again")

    monkeypatch.setattr(desk.manager, "submit", leave)
    line = refused(await desk.submit(*TASKS), 503)
    assert line == "the manager is stopping; submit again"


async def test_a_manager_that_cannot_decide_keeps_nobody_waiting_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ponder(submission: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(desk.manager, "submit", ponder)
    monkeypatch.setattr(timings, "DECISION_SECONDS", 0.0)
    assert "ask again, nothing is done twice" in refused(await desk.submit(*TASKS), 503)


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
async def test_what_is_not_there_is_named(desk: Desk, path: str, line: str) -> None:
    await desk.submit(*TASKS)
    assert refused(await desk.http.get(path), 404) == line


async def test_a_wrong_method_is_told_which_there_are(desk: Desk) -> None:
    response = await desk.http.delete("/api/runs")
    assert refused(response, 405).startswith("Method Not Allowed: DELETE /api/runs")
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
async def test_a_question_it_does_not_understand_is_refused(
    desk: Desk, query: str, line: str
) -> None:
    assert refused(await desk.http.get(f"/api/tasks?{query}"), 422) == line


async def test_an_unknown_status_is_told_which_there_are(desk: Desk) -> None:
    line = refused(await desk.http.get("/api/tasks?status=done"), 422)
    assert "'succeeded'" in line
    assert line.endswith("not 'done'")


async def test_a_failure_of_our_own_shows_no_traceback(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(desk.store, "runs", fail)
    assert "secret" not in refused(await desk.http.get("/api/runs"), 500)
