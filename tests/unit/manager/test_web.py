"""The manager's window: what it shows."""

import asyncio
from datetime import datetime
from itertools import count

import pytest

from skillq.messages import (
    Disconnect,
    Heartbeat,
    Outcome,
    TaskResult,
    TaskResults,
    WorkerEventKind,
)
from skillq_manager.web import paging
from tests.unit.manager.desk import TASKS, Desk


async def test_a_task_shows_what_its_user_wrote_and_where_it_is(desk: Desk) -> None:
    await desk.submit(*TASKS)
    (first, second, third) = (await desk.get("/api/tasks"))["items"]
    assert first["submitted_at"].endswith("Z")
    assert datetime.fromisoformat(first.pop("submitted_at")).tzinfo is not None
    assert first == {
        "run": "default",
        "id": "1",
        "description": "Simple calculation",
        "type": "task",
        "difficulty": 2,
        "priority": 1,
        "status": "ready",
        "reason": "no worker is connected",
        "worker": None,
        "attempt": 0,
        "started_at": None,
        "finished_at": None,
        "output": None,
        "error": None,
    }
    assert (second["type"], second["priority"]) == ("analysis", 3)
    assert third["reason"] == "waits for 1 of the tasks it depends on"


async def test_a_tasks_own_page_has_its_definition_and_its_attempts(desk: Desk) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior 1", 3)
    await desk.begin(junior, "1", at=1_800_000_000.5)
    going_on = await desk.get("/api/tasks/default/1")
    assert going_on["status"] == "running"
    assert going_on["reason"] == "attempt 1 is with Junior 1"
    await desk.end(junior, "1", "succeeded", output={"sum": 3}, finished_at=1_800_000_002.5)
    page = await desk.get("/api/tasks/default/1")
    assert page["output"] == {"sum": 3}
    assert page["worker"] == "Junior 1"
    assert page["finished_at"] == "2027-01-15T08:00:02.500000Z"
    (attempt,) = page["attempts"]
    assert attempt.pop("assigned_at").endswith("Z")
    assert attempt == {
        "attempt": 1,
        "worker": "Junior 1",
        "incarnation": "Junior 1-1",
        "started_at": "2027-01-15T08:00:00.500000Z",
        "finished_at": "2027-01-15T08:00:02.500000Z",
        "outcome": "succeeded",
        "error": None,
        "counted": True,
    }
    third = await desk.get("/api/tasks/default/3")
    assert (third["depends_on"], third["timeout"], third["max_attempts"]) == (["1"], 30.0, 2)
    assert (await desk.get("/api/tasks/default/2"))["payload"] == {"rows": [1, 2]}


async def test_an_ended_task_says_why_it_ended_so(desk: Desk) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3)
    await desk.end(junior, "1", "failed", error="no such file")
    failed = await desk.get("/api/tasks/default/1")
    assert (failed["reason"], failed["error"]) == ("no such file", "no such file")
    assert (await desk.get("/api/tasks/default/3"))["reason"] == "dependency 1 failed"


async def test_a_workers_broken_clock_costs_a_time_and_not_the_page(desk: Desk) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3)
    await desk.end(junior, "1", "succeeded", started_at=1e30, finished_at=-1e30)
    page = await desk.get("/api/tasks/default/1")
    assert (page["status"], page["started_at"]) == ("succeeded", None)
    assert page["finished_at"] is not None, "the manager has one, too"


async def test_a_stale_report_is_shown_as_one_that_did_not_count(desk: Desk) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3)
    await desk.end(junior, "1", "succeeded")
    late = TaskResult(run="default", id="1", attempt=7, outcome=Outcome.FAILED)
    message = TaskResults(worker="junior", incarnation="other", results=(late,))
    await desk.say("result.junior", message)
    await desk.until(lambda: len(desk.row("1").attempts) == 2)
    attempts = (await desk.get("/api/tasks/default/1"))["attempts"]
    assert [(a["attempt"], a["counted"]) for a in attempts] == [(1, True), (7, False)]
    assert attempts[1]["assigned_at"] is None


async def test_tasks_are_filtered_by_all_that_is_given(desk: Desk) -> None:
    await desk.submit(*TASKS)
    await desk.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    await desk.join("Junior", 3)
    await desk.until(lambda: desk.row("1").worker)

    async def ids(**which: str) -> list[str]:
        return [task["id"] for task in (await desk.get("/api/tasks", **which))["items"]]

    assert await ids(run="Night Shift") == await ids(run="night-shift") == ["x"]
    assert await ids(status="blocked") == ["3"]
    assert await ids(type="analysis", run="default") == ["2"]
    assert await ids(worker="Junior") == await ids(worker="junior") == ["1"]
    assert await ids(status="succeeded") == []


async def test_pages_together_hold_every_task_once_and_in_order(desk: Desk) -> None:
    await desk.submit(*({"id": n, "difficulty": 1} for n in range(53)))
    found, sizes = [], []
    following: dict[str, str] = {}
    while following.get("cursor", "") is not None:
        page = await desk.get("/api/tasks", limit=10, **following)
        found += [task["id"] for task in page["items"]]
        sizes.append(len(page["items"]))
        following = {"cursor": page["next_cursor"]}
    assert found == [str(n) for n in range(53)]
    assert sizes == [10, 10, 10, 10, 10, 3]


async def test_a_page_that_ends_with_the_last_task_has_no_successor(desk: Desk) -> None:
    await desk.submit(*TASKS)
    assert (await desk.get("/api/tasks", limit=3))["next_cursor"] is None
    assert (await desk.get("/api/tasks", limit=2))["next_cursor"] is not None


async def test_a_page_of_large_outputs_ends_early_and_loses_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 1000)
    await desk.submit(*({"id": n, "difficulty": 1, "description": "x" * 400} for n in range(5)))
    first = await desk.get("/api/tasks")
    rest = await desk.get("/api/tasks", cursor=first["next_cursor"])
    assert [t["id"] for t in first["items"] + rest["items"]] == ["0", "1", "2", "3"]
    assert rest["next_cursor"] is not None


async def test_others_go_on_while_a_long_page_is_made(desk: Desk) -> None:
    await desk.submit(*({"id": n, "difficulty": 1} for n in range(1000)))
    turns = count()

    async def others() -> None:
        while True:
            next(turns)
            await asyncio.sleep(0)

    going_on = asyncio.create_task(others())
    page = await desk.get("/api/tasks", limit=1000)
    going_on.cancel()
    assert len(page["items"]) == 1000
    assert next(turns) >= 1000 // paging._ITEMS_PER_PASS


async def test_runs_show_their_counts_and_their_success_rate(desk: Desk) -> None:
    await desk.submit(*TASKS[:2])
    await desk.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    junior = await desk.join("Junior", 3)
    await desk.end(junior, "1", "succeeded")
    senior = await desk.join("Senior", 9)
    await desk.until(lambda: desk.row("2").worker)
    await desk.end(senior, "2", "failed")
    (default, night) = (await desk.get("/api/runs"))["items"]
    assert default == await desk.get("/api/runs/default")
    assert default["counts"]["succeeded"] == default["counts"]["failed"] == 1
    assert (default["tasks"], default["ended"], default["success_rate"]) == (2, 2, 50.0)
    assert default["finished_at"].endswith("Z")
    assert night == await desk.get("/api/runs/Night Shift")
    assert (night["title"], night["finished_at"], night["success_rate"]) == (
        "Night Shift",
        None,
        None,
    )


async def test_runs_and_workers_come_in_pages_too(desk: Desk) -> None:
    for name in ("b", "a", "c"):
        await desk.submit({"id": 1, "difficulty": 9}, run=name)
        await desk.join(name, 1)
    for path, key, order in (("runs", "run", "bac"), ("workers", "name", "abc")):
        first = await desk.get(f"/api/{path}", limit=2)
        rest = await desk.get(f"/api/{path}", limit=2, cursor=first["next_cursor"])
        assert [one[key] for one in first["items"] + rest["items"]] == list(order)
        assert rest["next_cursor"] is None


async def test_workers_show_those_that_are_there_and_those_that_left(desk: Desk) -> None:
    await desk.submit(*TASKS)
    busy = await desk.join(
        "Senior", 9, specialties=("ocr",), slots=4, types=("task", "analysis"), reserve=1
    )
    gone = await desk.join("Gone", 1)
    bye = Disconnect(worker=gone.name, incarnation=gone.incarnation, reason="drained")
    await desk.say("disconnect.gone", bye)
    await desk.until(lambda: desk.worker("gone")[1] is WorkerEventKind.DISCONNECTED)
    (left, there) = (await desk.get("/api/workers"))["items"]
    assert (left["name"], left["status"], left["running"]) == ("Gone", "disconnected", 0)
    assert there.pop("last_seen").endswith("Z")
    assert there == {
        "name": "Senior",
        "incarnation": busy.incarnation,
        "skill": 9,
        "specialties": ["ocr"],
        "reserve": 1,
        "slots": 4,
        "running": 2,
        "waiting": 0,
        "status": "connected",
        "types": ["task", "analysis"],
        "refused": [],
    }
    assert left["types"] is None


async def test_a_worker_that_drains_or_is_late_is_shown_so(desk: Desk) -> None:
    who = await desk.join("Ada", 5)
    await desk.say("heartbeat.ada", Heartbeat(worker=who, draining=True))
    entry = desk.manager.state.workers.workers["ada"]
    await desk.until(lambda: entry.draining)
    assert (await desk.get("/api/workers"))["items"][0]["status"] == "draining"
    assert (await desk.get("/api/summary"))["slots"] == {"total": 1, "busy": 0, "free": 0}
    entry.suspect = True
    assert (await desk.get("/api/workers"))["items"][0]["status"] == "suspect"


async def test_the_summary_adds_everything_up(desk: Desk) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3, slots=2)
    await desk.end(junior, "1", "succeeded")
    summary = await desk.get("/api/summary")
    assert summary["tasks"]["succeeded"] == 1
    assert (summary["tasks"]["ready"], summary["tasks"]["running"]) == (2, 0)
    assert (summary["total"], summary["success_rate"]) == (3, 100.0)
    assert summary["workers"] == {"connected": 1, "suspect": 0, "draining": 0}
    assert summary["slots"] == {"total": 2, "busy": 0, "free": 2}
    assert summary["runs"] == {"open": 1, "ended": 0}


async def test_an_empty_manager_answers_everything(desk: Desk) -> None:
    nothing: dict[str, object] = {"items": [], "next_cursor": None}
    for path in ("tasks", "runs", "workers"):
        assert await desk.get(f"/api/{path}") == nothing
    assert (await desk.get("/api/summary"))["success_rate"] is None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:8080", 421),
        ("10.0.0.1", 421),
        ("localhost:9", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
    ],
)
async def test_without_a_token_it_answers_to_no_name_but_this_machines(
    desk: Desk, host: str, status: int
) -> None:
    answer = await desk.http.get("/api/summary", headers={"Host": host})
    assert answer.status_code == status
    assert (await desk.http.get("/livez", headers={"Host": host})).status_code == 200
