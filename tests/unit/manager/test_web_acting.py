"""The manager's window: what operators do to tasks, and why a task is where it is."""

from typing import Any

import pytest

from skillq import topology
from skillq.messages import Cancel, TaskResult, TaskResults, decode
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.store.memory import MemoryStore
from tests.unit.manager.desk import TASKS, Desk, refused

# --- called off ------------------------------------------------------------------------------


async def test_a_waiting_task_is_called_off_with_its_reason(desk: Desk) -> None:
    await desk.submit(*TASKS, run="Night Shift")
    done = await desk.post("/api/tasks/Night Shift/2/cancel", reason="not wanted any more")
    assert done == {"run": "night-shift", "cancelled": 1}
    page = await desk.get("/api/tasks/night-shift/2")
    assert (page["status"], page["reason"]) == ("cancelled", "not wanted any more")


async def test_a_running_task_is_called_off_and_its_worker_is_told() -> None:
    broker = MemoryBroker()
    async with Desk(broker).open() as desk, MemoryTransport(broker) as other:
        await desk.submit(*TASKS)
        junior = await desk.join("Junior", 3)
        await desk.begin(junior, "1", at=1.0)
        await desk.post("/api/tasks/default/1/cancel")
        page = await desk.get("/api/tasks/default/1")
        assert (page["status"], page["reason"]) == ("cancelled", "cancelled by an operator")
        assert [a["outcome"] for a in page["attempts"]] == ["cancelled"]
        consumer = await other.consume(topology.worker_queue("junior"), prefetch=10)
        told: list[Cancel] = []
        while not told:
            messages = [decode(delivery.body) for delivery in await consumer.batch()]
            told += [m for m in messages if isinstance(m, Cancel)]
        assert [ref.id for ref in told[0].attempts] == ["1"]


async def test_a_run_is_called_off_as_a_whole_and_no_other(desk: Desk) -> None:
    await desk.submit(*TASKS)
    await desk.submit(TASKS[0], run="Night Shift")
    assert await desk.post("/api/runs/default/cancel") == {"run": "default", "cancelled": 3}
    assert await desk.post("/api/runs/default/cancel") == {"run": "default", "cancelled": 0}
    assert (await desk.get("/api/runs/default"))["counts"]["cancelled"] == 3
    assert (await desk.get("/api/runs/night-shift"))["counts"]["ready"] == 1


async def test_what_has_ended_cannot_be_called_off(desk: Desk) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3)
    await desk.end(junior, "1", "succeeded")
    response = await desk.http.post("/api/tasks/default/1/cancel", json={})
    assert refused(response, 409) == "task 1 in run default has ended already: succeeded"


# --- sent again ------------------------------------------------------------------------------


async def test_a_task_that_was_given_up_on_is_sent_again_and_keeps_its_history(desk: Desk) -> None:
    await desk.submit(TASKS[0])
    await desk.give_up("1")
    assert await desk.post("/api/tasks/default/1/retry") == {"retried": 1, "refused": []}
    junior = await desk.join("Junior", 3)
    await desk.end(junior, "1", "succeeded", attempt=4)
    page = await desk.get("/api/tasks/default/1")
    assert page["status"] == "succeeded"
    assert [a["outcome"] for a in page["attempts"]] == ["lost", "lost", "lost", "succeeded"]


async def test_what_has_not_ended_or_has_succeeded_is_not_sent_again(desk: Desk) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3)
    await desk.end(junior, "1", "succeeded")
    for id, line in (
        ("1", "task 1 in run default has succeeded"),
        ("2", "task 2 in run default has not ended"),
    ):
        response = await desk.http.post(f"/api/tasks/default/{id}/retry", json={})
        assert refused(response, 409) == line


async def test_all_that_match_are_sent_again_and_nothing_else(desk: Desk) -> None:
    def work(id: str, **more: Any) -> dict[str, Any]:
        return {"id": id, "difficulty": 1, **more}

    await desk.submit(work("a", type="ocr"), work("b", type="ocr"), work("c"), work("d"))
    ada = await desk.join("Ada", 5, slots=4)
    await desk.end(ada, "d", "failed")
    await desk.post("/api/runs/default/cancel")
    for form, ids in (
        ({"status": "failed"}, {"d"}),
        ({"type": "ocr", "status": "cancelled"}, {"a", "b"}),
        ({"run": "Default", "status": "cancelled"}, {"c"}),
        ({}, set[str]()),
    ):
        before = {t["id"] for t in (await desk.get("/api/tasks"))["items"] if t["finished_at"]}
        answer = await desk.post("/api/tasks/retry", **form)
        after = {t["id"] for t in (await desk.get("/api/tasks"))["items"] if t["finished_at"]}
        assert (answer["retried"], before - after) == (len(ids), ids)


async def test_without_a_status_the_dead_lettered_are_sent_again(desk: Desk) -> None:
    await desk.submit(*TASKS)
    await desk.give_up("1", "2")
    assert (await desk.get("/api/tasks/default/3"))["status"] == "failed"  # depends on 1
    assert (await desk.post("/api/tasks/retry"))["retried"] == 2
    counts = (await desk.get("/api/runs/default"))["counts"]
    assert (counts["ready"], counts["failed"]) == (2, 1)


async def test_what_depends_on_another_is_sent_again_with_it_and_not_without(desk: Desk) -> None:
    await desk.submit(TASKS[0], TASKS[2])
    await desk.give_up("1")
    alone = await desk.post("/api/tasks/retry", tasks=[{"run": "default", "id": "3"}])
    assert alone["retried"] == 0
    ((reason),) = [one["reason"] for one in alone["refused"]]
    assert reason.startswith("depends on 1, which dead_lettered")
    names = [{"run": "default", "id": id} for id in ("3", "1", "3", "nope")]
    both = await desk.post("/api/tasks/retry", tasks=names)
    assert both == {
        "retried": 2,
        "refused": [{"run": "default", "id": "nope", "reason": "is not there"}],
    }
    assert (await desk.get("/api/tasks/default/3"))["status"] == "blocked"


async def test_more_than_one_part_is_sent_again_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_manager.web.actions._RETRY_PAGE", 2)
    chain = [{"id": n, "difficulty": 1, "depends_on": [n - 1] if n else []} for n in range(7)]
    await desk.submit(*chain)
    await desk.post("/api/runs/default/cancel")
    answer = await desk.post("/api/tasks/retry", status="cancelled")
    assert answer == {"retried": 7, "refused": []}


# --- given up on -----------------------------------------------------------------------------


async def test_what_was_given_up_on_is_listed_with_reason_and_attempts(desk: Desk) -> None:
    await desk.submit(*TASKS)
    await desk.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    await desk.give_up("1", "2")
    (first, second) = (await desk.get("/api/dead"))["items"]
    assert (first["id"], second["id"]) == ("1", "2")
    assert first["reason"] == "worker Victim: its process was restarted"
    assert [a["outcome"] for a in first["attempts"]] == ["lost"] * 3
    everything = (await desk.get("/api/dead", all=True))["items"]
    assert [(t["id"], t["status"]) for t in everything] == [
        ("1", "dead_lettered"),
        ("2", "dead_lettered"),
        ("3", "failed"),
    ]
    assert [t["id"] for t in (await desk.get("/api/dead", type="analysis"))["items"]] == ["2"]
    assert (await desk.get("/api/dead", run="Night Shift"))["items"] == []


async def test_what_was_given_up_on_comes_in_pages(desk: Desk) -> None:
    await desk.submit(*TASKS)
    await desk.give_up("1", "2")
    first = await desk.get("/api/dead", all=True, limit=2)
    rest = await desk.get("/api/dead", all=True, limit=2, cursor=first["next_cursor"])
    assert [t["id"] for t in first["items"] + rest["items"]] == ["1", "2", "3"]
    assert rest["next_cursor"] is None


# --- why -------------------------------------------------------------------------------------


async def test_a_waiting_task_is_explained_worker_by_worker(desk: Desk) -> None:
    await desk.submit({"id": "hard", "difficulty": 8, "requires": ["gpu"]})
    await desk.join("Junior", 3)
    await desk.join("GPU box 1", 9, specialties=("ocr",))
    why = await desk.get("/api/tasks/default/hard/explain")
    assert why["status"] == "ready"
    assert why["reason"] == "no worker has the specialties it requires: gpu"
    assert [one["worker"] for one in why["workers"]] == ["GPU box 1", "Junior"]
    assert "gpu" in why["workers"][0]["verdict"]


async def test_a_task_that_somebody_has_is_explained_by_that(desk: Desk) -> None:
    await desk.submit(TASKS[0])
    await desk.join("Junior", 3)
    await desk.join("Senior", 9)
    why = await desk.get("/api/tasks/default/1/explain")
    assert why["workers"] == [
        {"worker": "Junior", "verdict": "has it: attempt 1"},
        {"worker": "Senior", "verdict": "could do it, and has a free slot"},
    ]


async def test_a_task_that_has_ended_is_explained_by_its_reason(desk: Desk) -> None:
    await desk.submit(TASKS[0])
    await desk.post("/api/tasks/default/1/cancel", reason="enough")
    why = await desk.get("/api/tasks/default/1/explain")
    assert (why["reason"], why["workers"]) == ("enough", [])


async def test_a_task_that_asks_for_more_than_it_was_written_says_what_and_why(desk: Desk) -> None:
    await desk.submit(
        {"id": "1", "difficulty": 2, "max_attempts": 3, "escalate_by": 4},
        {"id": "busy", "difficulty": 9},
    )
    junior = await desk.join("Junior", 3)
    await desk.join("Senior", 9)
    await desk.end(junior, "1", "failed", error="too hard")
    page = await desk.get("/api/tasks/default/1")
    assert (page["difficulty"], page["failures"], page["losses"]) == (2, 1, 0)
    assert page["asks"]["difficulty"] == 6
    assert page["asks"]["because"] == "attempt 1 failed with Junior"
    assert (await desk.get("/api/tasks/default/1/explain"))["asks"] == page["asks"]


async def test_a_task_that_asks_for_what_was_written_says_nothing_of_it(desk: Desk) -> None:
    await desk.submit(*TASKS)
    assert (await desk.get("/api/tasks/default/3"))["asks"] is None


async def test_attempts_that_failed_and_were_lost_are_counted_apart(desk: Desk) -> None:
    await desk.submit({"id": "1", "difficulty": 2, "max_attempts": 2})
    await desk.join("Ada", 5)
    ada = await desk.join("Ada", 5, incarnation="Ada-2")
    await desk.end(ada, "1", "failed", attempt=2, error="no")
    live = await desk.get("/api/tasks/default/1")
    assert (live["failures"], live["losses"]) == (1, 1)
    await desk.end(ada, "1", "failed", attempt=3, error="no")
    ended = await desk.get("/api/tasks/default/1")
    assert (ended["status"], ended["failures"], ended["losses"]) == ("failed", 2, 1)


# --- what is refused -------------------------------------------------------------------------

_ACTIONS = (
    "/api/tasks/default/1/cancel",
    "/api/runs/default/cancel",
    "/api/tasks/default/1/retry",
    "/api/tasks/retry",
    "/api/parked/x/retry",
)


@pytest.mark.parametrize("path", _ACTIONS)
async def test_no_other_web_page_can_act_behind_its_readers_back(desk: Desk, path: str) -> None:
    await desk.submit(*TASKS)
    for headers in ({}, {"Content-Type": "text/plain"}):
        response = await desk.http.post(path, content="{}", headers=headers)
        assert "application/json" in refused(response, 415)
    assert (await desk.get("/api/summary"))["tasks"]["cancelled"] == 0


async def test_a_field_that_is_not_known_is_refused_instead_of_doing_more(desk: Desk) -> None:
    await desk.submit(*TASKS)
    for path in _ACTIONS:
        response = await desk.http.post(path, json={"rnu": "night"})
        assert refused(response, 422) == "unknown field 'rnu'"


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ({"status": "ready"}, "status: "),
        ({"tasks": []}, "tasks: "),
        ({"tasks": [{"run": "default"}]}, "tasks.0.id is missing"),
        ({"tasks": [{"run": "default", "id": "1"}], "run": "default"}, "not both"),
        ([], "should be a mapping of fields to values, not []"),
    ],
)
async def test_a_retry_that_is_not_understood_is_refused_in_one_line(
    desk: Desk, form: Any, line: str
) -> None:
    assert line in refused(await desk.http.post("/api/tasks/retry", json=form), 422)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/api/tasks/default/9/cancel", "there is no task '9' in run 'default'"),
        ("/api/tasks/nope/1/retry", "there is no run 'nope'"),
        ("/api/runs/nope/cancel", "there is no run 'nope'"),
        ("/api/parked/nope/retry", "there is no unreadable message 'nope'"),
    ],
)
async def test_what_is_not_there_is_named(desk: Desk, path: str, line: str) -> None:
    await desk.submit(*TASKS)
    assert refused(await desk.http.post(path, json={}), 404) == line


async def test_a_token_guards_what_operators_do() -> None:
    async with Desk(MemoryBroker(), token="geheim").open() as desk:
        for path in _ACTIONS:
            refused(await desk.http.post(path, json={}), 401)
        refused(await desk.http.delete("/api/parked/x"), 401)
        for path in ("/api/dead", "/api/parked", "/api/tasks/default/1/explain"):
            refused(await desk.http.get(path), 401)


# --- standing by -----------------------------------------------------------------------------


class Mirror(MemoryStore):
    """The rows of another store, which another manager leads."""

    def __init__(self, of: MemoryStore) -> None:
        self.__dict__ = of.__dict__

    async def acquire(self) -> bool:
        return False


async def test_a_manager_that_stands_by_answers_what_is_read_and_refuses_what_is_decided() -> None:
    broker = MemoryBroker()
    async with Desk(broker).open() as first:
        await first.submit(*TASKS)
        await first.join("Junior", 3, slots=2)
        other = Desk(broker, store=Mirror(first.store))
        async with other.open(leading=False) as second:
            assert await second.get("/api/runs") == await first.get("/api/runs")
            page = await second.get("/api/tasks/default/2")
            assert page["status"] == "ready"
            assert page["reason"] == "this manager stands by; the one that leads knows why"
            assert (await second.get("/api/tasks/default/2/explain"))["workers"] == []
            (worker,) = (await second.get("/api/workers"))["items"]
            assert (worker["name"], worker["status"]) == ("Junior", "connected")
            summary = await second.get("/api/summary")
            assert summary["workers"]["connected"] == 1
            assert summary["slots"] == {"total": 2, "busy": 0, "free": 0}
            assert summary["manager"]["leading"] is False
            assert "skillq_manager_leader 0.0" in (await second.http.get("/metrics")).text
            for path in _ACTIONS:
                line = refused(await second.http.post(path, json={}), 503)
                assert line == "this manager does not lead now; ask again in a moment"
            refused(await second.http.delete("/api/parked/x"), 503)
            refused(await second.submit(TASKS[0]), 503)
        assert (await first.get("/api/summary"))["manager"]["leading"] is True


# --- metrics ---------------------------------------------------------------------------------


async def test_metrics_count_retries_stale_results_and_what_was_given_up_on(desk: Desk) -> None:
    await desk.submit(TASKS[0])
    await desk.give_up("1")
    await desk.post("/api/tasks/default/1/retry")
    late = TaskResult(run="default", id="1", attempt=1, outcome="succeeded")  # type: ignore[arg-type]
    message = TaskResults(worker="victim", incarnation="Victim-1", results=(late,))
    await desk.say("result.victim", message)
    await desk.until(lambda: desk.manager.counters.stale_results)
    await desk.stray()
    lines = set((await desk.http.get("/metrics")).text.splitlines())
    assert {
        'skillq_tasks_ended_total{status="dead_lettered"} 1.0',
        'skillq_attempts_ended_total{outcome="lost"} 3.0',
        "skillq_retries_total 2.0",
        "skillq_tasks_sent_again_total 1.0",
        "skillq_stale_results_total 1.0",
        "skillq_parked_messages_total 1.0",
        "skillq_manager_leader 1.0",
    } <= lines
