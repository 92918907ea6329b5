"""The HTTP API: tasks, runs, workers and the summary."""

import asyncio
from datetime import datetime
from itertools import count

import pytest

from skillq.messages import (
    Heartbeat,
    Outcome,
    TaskResult,
    TaskResults,
)
from skillq_manager.web import paging
from tests.support.manager_harness import TASKS, ApiHarness
from tests.support.waiting import until_async


async def test_a_task_shows_its_definition_and_its_status(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    (first, second, third) = (await api.get("/api/tasks"))["items"]
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


async def test_the_page_of_a_task_has_its_definition_and_its_attempts(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior 1", 3)
    await junior.start_attempt("1", at=1_800_000_000.5)
    running = await api.get("/api/tasks/default/1")
    assert running["status"] == "running"
    assert running["reason"] == "attempt 1 is with Junior 1"
    await junior.end_attempt("1", "succeeded", output={"sum": 3}, finished_at=1_800_000_002.5)
    page = await api.get("/api/tasks/default/1")
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
    third = await api.get("/api/tasks/default/3")
    assert (third["depends_on"], third["timeout"], third["max_attempts"]) == (["1"], 30.0, 2)
    assert (await api.get("/api/tasks/default/2"))["payload"] == {"rows": [1, 2]}


async def test_an_ended_task_shows_the_reason_of_its_end(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.end_attempt("1", "failed", error="no such file")
    failed = await api.get("/api/tasks/default/1")
    assert (failed["reason"], failed["error"]) == ("no such file", "no such file")
    assert (await api.get("/api/tasks/default/3"))["reason"] == "dependency 1 failed"


async def test_impossible_times_of_a_worker_do_not_break_the_page_of_a_task(
    api: ApiHarness,
) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.end_attempt("1", "succeeded", started_at=1e30, finished_at=-1e30)
    page = await api.get("/api/tasks/default/1")
    assert (page["status"], page["started_at"]) == ("succeeded", None)
    assert page["finished_at"] is not None, "the manager's own time is used"


async def test_a_stale_result_is_shown_as_not_counted(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.end_attempt("1", "succeeded")
    late = TaskResult(run="default", id="1", attempt=7, outcome=Outcome.FAILED)
    message = TaskResults(worker="junior", incarnation="other", results=(late,))
    await api.report("result.junior", message)
    await until_async(
        lambda: len(api.task_row("1").attempts) == 2, "the stale result should be recorded"
    )
    attempts = (await api.get("/api/tasks/default/1"))["attempts"]
    assert [(a["attempt"], a["counted"]) for a in attempts] == [(1, True), (7, False)]
    assert attempts[1]["assigned_at"] is None


async def test_tasks_are_filtered_by_every_parameter(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    await api.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    await api.connect_fake_worker("Junior", 3)
    await until_async(lambda: api.task_row("1").worker, "task 1 should be assigned")

    async def ids(**filters: str) -> list[str]:
        return [task["id"] for task in (await api.get("/api/tasks", **filters))["items"]]

    assert await ids(run="Night Shift") == await ids(run="night-shift") == ["x"]
    assert await ids(status="blocked") == ["3"]
    assert await ids(type="analysis", run="default") == ["2"]
    assert await ids(worker="Junior") == await ids(worker="junior") == ["1"]
    assert await ids(status="succeeded") == []


async def test_the_pages_of_a_list_hold_every_task_once_and_in_order(api: ApiHarness) -> None:
    await api.submit(*({"id": n, "difficulty": 1} for n in range(53)))
    found, sizes = [], []
    next_page: dict[str, str] = {}
    while next_page.get("cursor", "") is not None:
        page = await api.get("/api/tasks", limit=10, **next_page)
        found += [task["id"] for task in page["items"]]
        sizes.append(len(page["items"]))
        next_page = {"cursor": page["next_cursor"]}
    assert found == [str(n) for n in range(53)]
    assert sizes == [10, 10, 10, 10, 10, 3]


async def test_the_page_with_the_last_task_has_no_next_cursor(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    assert (await api.get("/api/tasks", limit=3))["next_cursor"] is None
    assert (await api.get("/api/tasks", limit=2))["next_cursor"] is not None


async def test_a_page_of_large_tasks_ends_early_and_loses_none(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 1000)
    await api.submit(*({"id": n, "difficulty": 1, "description": "x" * 400} for n in range(5)))
    first = await api.get("/api/tasks")
    rest = await api.get("/api/tasks", cursor=first["next_cursor"])
    assert [t["id"] for t in first["items"] + rest["items"]] == ["0", "1", "2", "3"]
    assert rest["next_cursor"] is not None


async def test_other_work_goes_on_while_a_long_page_is_made(api: ApiHarness) -> None:
    await api.submit(*({"id": n, "difficulty": 1} for n in range(1000)))
    passes = count()

    async def other_work() -> None:
        while True:
            next(passes)
            await asyncio.sleep(0)

    other = asyncio.create_task(other_work())
    page = await api.get("/api/tasks", limit=1000)
    other.cancel()
    assert len(page["items"]) == 1000
    assert next(passes) >= 1000 // paging._ITEMS_PER_PASS


async def test_runs_show_their_counts_and_their_success_rate(api: ApiHarness) -> None:
    await api.submit(*TASKS[:2])
    await api.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.end_attempt("1", "succeeded")
    senior = await api.connect_fake_worker("Senior", 9)
    await until_async(lambda: api.task_row("2").worker, "task 2 should be assigned")
    await senior.end_attempt("2", "failed")
    (default, night) = (await api.get("/api/runs"))["items"]
    assert default == await api.get("/api/runs/default")
    assert default["counts"]["succeeded"] == default["counts"]["failed"] == 1
    assert (default["tasks"], default["ended"], default["success_rate"]) == (2, 2, 50.0)
    assert default["finished_at"].endswith("Z")
    assert night == await api.get("/api/runs/Night Shift")
    assert (night["title"], night["finished_at"], night["success_rate"]) == (
        "Night Shift",
        None,
        None,
    )


async def test_runs_and_workers_are_listed_in_pages(api: ApiHarness) -> None:
    for name in ("b", "a", "c"):
        await api.submit({"id": 1, "difficulty": 9}, run=name)
        await api.connect_fake_worker(name, 1)
    for path, key, order in (("runs", "run", "bac"), ("workers", "name", "abc")):
        first = await api.get(f"/api/{path}", limit=2)
        rest = await api.get(f"/api/{path}", limit=2, cursor=first["next_cursor"])
        assert [item[key] for item in first["items"] + rest["items"]] == list(order)
        assert rest["next_cursor"] is None


async def test_the_list_of_workers_shows_connected_and_disconnected_workers(
    api: ApiHarness,
) -> None:
    await api.submit(*TASKS)
    busy = await api.connect_fake_worker(
        "Senior", 9, specialties=("ocr",), slots=4, types=("task", "analysis"), reserve=1
    )
    gone = await api.connect_fake_worker("Gone", 1)
    await gone.disconnect("drained")
    (disconnected, connected) = (await api.get("/api/workers"))["items"]
    assert (disconnected["name"], disconnected["status"], disconnected["running"]) == (
        "Gone",
        "disconnected",
        0,
    )
    assert connected.pop("last_seen").endswith("Z")
    assert connected == {
        "name": "Senior",
        "incarnation": busy.profile.incarnation,
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
    assert disconnected["types"] is None


async def test_a_draining_or_suspect_worker_is_shown_as_such(api: ApiHarness) -> None:
    ada = await api.connect_fake_worker("Ada", 5)
    await api.report("heartbeat.ada", Heartbeat(worker=ada.profile, draining=True))
    entry = api.manager.state.workers.workers["ada"]
    await until_async(lambda: entry.draining, "the worker should drain")
    assert (await api.get("/api/workers"))["items"][0]["status"] == "draining"
    assert (await api.get("/api/summary"))["slots"] == {"total": 1, "busy": 0, "free": 0}
    entry.suspect = True
    assert (await api.get("/api/workers"))["items"][0]["status"] == "suspect"


async def test_the_summary_counts_tasks_workers_slots_and_runs(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3, slots=2)
    await junior.end_attempt("1", "succeeded")
    summary = await api.get("/api/summary")
    assert summary["tasks"]["succeeded"] == 1
    assert (summary["tasks"]["ready"], summary["tasks"]["running"]) == (2, 0)
    assert (summary["total"], summary["success_rate"]) == (3, 100.0)
    assert summary["workers"] == {"connected": 1, "suspect": 0, "draining": 0}
    assert summary["slots"] == {"total": 2, "busy": 0, "free": 2}
    assert summary["runs"] == {"open": 1, "ended": 0}


async def test_a_manager_without_tasks_answers_every_request(api: ApiHarness) -> None:
    empty: dict[str, object] = {"items": [], "next_cursor": None}
    for path in ("tasks", "runs", "workers"):
        assert await api.get(f"/api/{path}") == empty
    assert (await api.get("/api/summary"))["success_rate"] is None


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
async def test_the_api_without_token_answers_only_to_host_names_of_this_machine(
    api: ApiHarness, host: str, status: int
) -> None:
    answer = await api.http.get("/api/summary", headers={"Host": host})
    assert answer.status_code == status
    assert (await api.http.get("/livez", headers={"Host": host})).status_code == 200
