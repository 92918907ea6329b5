"""The HTTP API: actions of operators on tasks, and explanations."""

from typing import Any

import pytest

from skillq import topology
from skillq.messages import Cancel, TaskResult, TaskResults, decode
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.store.memory import MemoryStore
from tests.support.manager_harness import TASKS, ApiHarness, error_line
from tests.support.waiting import until_async

# --- cancel ----------------------------------------------------------------------------------


async def test_a_ready_task_is_cancelled_with_the_given_reason(api: ApiHarness) -> None:
    await api.submit(*TASKS, run="Night Shift")
    answer = await api.post("/api/tasks/Night Shift/2/cancel", reason="not wanted any more")
    assert answer == {"run": "night-shift", "cancelled": 1}
    page = await api.get("/api/tasks/night-shift/2")
    assert (page["status"], page["reason"]) == ("cancelled", "not wanted any more")


async def test_cancelling_a_running_task_sends_a_cancel_message_to_its_worker() -> None:
    broker = MemoryBroker()
    async with ApiHarness(broker=broker) as api, MemoryTransport(broker) as other:
        await api.submit(*TASKS)
        junior = await api.connect_fake_worker("Junior", 3)
        await junior.start_attempt("1", at=1.0)
        await api.post("/api/tasks/default/1/cancel")
        page = await api.get("/api/tasks/default/1")
        assert (page["status"], page["reason"]) == ("cancelled", "cancelled by an operator")
        assert [a["outcome"] for a in page["attempts"]] == ["cancelled"]
        consumer = await other.consume(topology.worker_queue("junior"), prefetch=10)
        cancels: list[Cancel] = []
        while not cancels:
            messages = [decode(delivery.body) for delivery in await consumer.batch()]
            cancels += [m for m in messages if isinstance(m, Cancel)]
        assert [ref.id for ref in cancels[0].attempts] == ["1"]


async def test_cancelling_a_run_cancels_its_tasks_and_no_other_run(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    await api.submit(TASKS[0], run="Night Shift")
    assert await api.post("/api/runs/default/cancel") == {"run": "default", "cancelled": 3}
    assert await api.post("/api/runs/default/cancel") == {"run": "default", "cancelled": 0}
    assert (await api.get("/api/runs/default"))["counts"]["cancelled"] == 3
    assert (await api.get("/api/runs/night-shift"))["counts"]["ready"] == 1


async def test_an_ended_task_cannot_be_cancelled(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.end_attempt("1", "succeeded")
    response = await api.http.post("/api/tasks/default/1/cancel", json={})
    assert error_line(response, 409) == "task 1 in run default has ended already: succeeded"


# --- retry -----------------------------------------------------------------------------------


async def test_a_dead_lettered_task_is_retried_and_keeps_its_attempts(api: ApiHarness) -> None:
    await api.submit(TASKS[0])
    await api.dead_letter_tasks("1")
    assert await api.post("/api/tasks/default/1/retry") == {"retried": 1, "refused": []}
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.end_attempt("1", "succeeded", attempt=4)
    page = await api.get("/api/tasks/default/1")
    assert page["status"] == "succeeded"
    assert [a["outcome"] for a in page["attempts"]] == ["lost", "lost", "lost", "succeeded"]


async def test_a_task_that_succeeded_or_has_not_ended_is_not_retried(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.end_attempt("1", "succeeded")
    for id, line in (
        ("1", "task 1 in run default has succeeded"),
        ("2", "task 2 in run default has not ended"),
    ):
        response = await api.http.post(f"/api/tasks/default/{id}/retry", json={})
        assert error_line(response, 409) == line


async def test_all_matching_tasks_are_retried_and_no_other(api: ApiHarness) -> None:
    def definition(id: str, **more: Any) -> dict[str, Any]:
        return {"id": id, "difficulty": 1, **more}

    await api.submit(
        definition("a", type="ocr"), definition("b", type="ocr"), definition("c"), definition("d")
    )
    ada = await api.connect_fake_worker("Ada", 5, slots=4)
    await ada.end_attempt("d", "failed")
    await api.post("/api/runs/default/cancel")
    for form, ids in (
        ({"status": "failed"}, {"d"}),
        ({"type": "ocr", "status": "cancelled"}, {"a", "b"}),
        ({"run": "Default", "status": "cancelled"}, {"c"}),
        ({}, set[str]()),
    ):
        before = {t["id"] for t in (await api.get("/api/tasks"))["items"] if t["finished_at"]}
        answer = await api.post("/api/tasks/retry", **form)
        after = {t["id"] for t in (await api.get("/api/tasks"))["items"] if t["finished_at"]}
        assert (answer["retried"], before - after) == (len(ids), ids)


async def test_a_retry_without_status_retries_dead_lettered_tasks(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    await api.dead_letter_tasks("1", "2")
    assert (await api.get("/api/tasks/default/3"))["status"] == "failed"  # depends on 1
    assert (await api.post("/api/tasks/retry"))["retried"] == 2
    counts = (await api.get("/api/runs/default"))["counts"]
    assert (counts["ready"], counts["failed"]) == (2, 1)


async def test_a_dependent_task_is_retried_only_together_with_its_dependency(
    api: ApiHarness,
) -> None:
    await api.submit(TASKS[0], TASKS[2])
    await api.dead_letter_tasks("1")
    alone = await api.post("/api/tasks/retry", tasks=[{"run": "default", "id": "3"}])
    assert alone["retried"] == 0
    ((reason),) = [item["reason"] for item in alone["refused"]]
    assert reason.startswith("depends on 1, which dead_lettered")
    names = [{"run": "default", "id": id} for id in ("3", "1", "3", "nope")]
    both = await api.post("/api/tasks/retry", tasks=names)
    assert both == {
        "retried": 2,
        "refused": [{"run": "default", "id": "nope", "reason": "is not there"}],
    }
    assert (await api.get("/api/tasks/default/3"))["status"] == "blocked"


async def test_a_retry_of_several_pages_of_tasks_is_complete(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_manager.web.actions._RETRY_PAGE", 2)
    chain = [{"id": n, "difficulty": 1, "depends_on": [n - 1] if n else []} for n in range(7)]
    await api.submit(*chain)
    await api.post("/api/runs/default/cancel")
    answer = await api.post("/api/tasks/retry", status="cancelled")
    assert answer == {"retried": 7, "refused": []}


# --- dead-lettered tasks -----------------------------------------------------------------------


async def test_dead_lettered_tasks_are_listed_with_reason_and_attempts(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    await api.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    await api.dead_letter_tasks("1", "2")
    (first, second) = (await api.get("/api/dead"))["items"]
    assert (first["id"], second["id"]) == ("1", "2")
    assert first["reason"] == "worker Victim: its process was restarted"
    assert [a["outcome"] for a in first["attempts"]] == ["lost"] * 3
    everything = (await api.get("/api/dead", all=True))["items"]
    assert [(t["id"], t["status"]) for t in everything] == [
        ("1", "dead_lettered"),
        ("2", "dead_lettered"),
        ("3", "failed"),
    ]
    assert [t["id"] for t in (await api.get("/api/dead", type="analysis"))["items"]] == ["2"]
    assert (await api.get("/api/dead", run="Night Shift"))["items"] == []


async def test_dead_lettered_tasks_are_listed_in_pages(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    await api.dead_letter_tasks("1", "2")
    first = await api.get("/api/dead", all=True, limit=2)
    rest = await api.get("/api/dead", all=True, limit=2, cursor=first["next_cursor"])
    assert [t["id"] for t in first["items"] + rest["items"]] == ["1", "2", "3"]
    assert rest["next_cursor"] is None


# --- explanations ----------------------------------------------------------------------------


async def test_the_explanation_of_a_ready_task_has_a_verdict_for_each_worker(
    api: ApiHarness,
) -> None:
    await api.submit({"id": "hard", "difficulty": 8, "requires": ["gpu"]})
    await api.connect_fake_worker("Junior", 3)
    await api.connect_fake_worker("GPU box 1", 9, specialties=("ocr",))
    explanation = await api.get("/api/tasks/default/hard/explain")
    assert explanation["status"] == "ready"
    assert explanation["reason"] == "no worker has the specialties it requires: gpu"
    assert [item["worker"] for item in explanation["workers"]] == ["GPU box 1", "Junior"]
    assert "gpu" in explanation["workers"][0]["verdict"]


async def test_the_explanation_of_an_assigned_task_names_its_worker(api: ApiHarness) -> None:
    await api.submit(TASKS[0])
    await api.connect_fake_worker("Junior", 3)
    await api.connect_fake_worker("Senior", 9)
    explanation = await api.get("/api/tasks/default/1/explain")
    assert explanation["workers"] == [
        {"worker": "Junior", "verdict": "has it: attempt 1"},
        {"worker": "Senior", "verdict": "could do it, and has a free slot"},
    ]


async def test_the_explanation_of_an_ended_task_is_its_reason(api: ApiHarness) -> None:
    await api.submit(TASKS[0])
    await api.post("/api/tasks/default/1/cancel", reason="enough")
    explanation = await api.get("/api/tasks/default/1/explain")
    assert (explanation["reason"], explanation["workers"]) == ("enough", [])


async def test_an_escalated_task_shows_its_need_and_the_reason(api: ApiHarness) -> None:
    await api.submit(
        {"id": "1", "difficulty": 2, "max_attempts": 3, "escalate_by": 4},
        {"id": "busy", "difficulty": 9},
    )
    junior = await api.connect_fake_worker("Junior", 3)
    await api.connect_fake_worker("Senior", 9)
    await junior.end_attempt("1", "failed", error="too hard")
    page = await api.get("/api/tasks/default/1")
    assert (page["difficulty"], page["failures"], page["losses"]) == (2, 1, 0)
    assert page["asks"]["difficulty"] == 6
    assert page["asks"]["because"] == "attempt 1 failed with Junior"
    assert (await api.get("/api/tasks/default/1/explain"))["asks"] == page["asks"]


async def test_a_task_that_is_not_escalated_shows_no_need(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    assert (await api.get("/api/tasks/default/3"))["asks"] is None


async def test_failures_and_losses_are_counted_separately(api: ApiHarness) -> None:
    await api.submit({"id": "1", "difficulty": 2, "max_attempts": 2})
    await api.connect_fake_worker("Ada", 5)
    ada = await api.connect_fake_worker("Ada", 5, incarnation="Ada-2")
    await ada.end_attempt("1", "failed", attempt=2, error="no")
    live = await api.get("/api/tasks/default/1")
    assert (live["failures"], live["losses"]) == (1, 1)
    await ada.end_attempt("1", "failed", attempt=3, error="no")
    ended = await api.get("/api/tasks/default/1")
    assert (ended["status"], ended["failures"], ended["losses"]) == ("failed", 2, 1)


# --- refusals --------------------------------------------------------------------------------

_ACTIONS = (
    "/api/tasks/default/1/cancel",
    "/api/runs/default/cancel",
    "/api/tasks/default/1/retry",
    "/api/tasks/retry",
    "/api/parked/x/retry",
)


@pytest.mark.parametrize("path", _ACTIONS)
async def test_actions_need_the_media_type_json_so_that_no_other_web_page_can_send_them(
    api: ApiHarness, path: str
) -> None:
    await api.submit(*TASKS)
    for headers in ({}, {"Content-Type": "text/plain"}):
        response = await api.http.post(path, content="{}", headers=headers)
        assert "application/json" in error_line(response, 415)
    assert (await api.get("/api/summary"))["tasks"]["cancelled"] == 0


async def test_an_unknown_field_of_an_action_is_refused(api: ApiHarness) -> None:
    await api.submit(*TASKS)
    for path in _ACTIONS:
        response = await api.http.post(path, json={"rnu": "night"})
        assert error_line(response, 422) == "unknown field 'rnu'"


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
async def test_an_invalid_retry_is_refused_in_one_line(
    api: ApiHarness, form: Any, line: str
) -> None:
    assert line in error_line(await api.http.post("/api/tasks/retry", json=form), 422)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/api/tasks/default/9/cancel", "there is no task '9' in run 'default'"),
        ("/api/tasks/nope/1/retry", "there is no run 'nope'"),
        ("/api/runs/nope/cancel", "there is no run 'nope'"),
        ("/api/parked/nope/retry", "there is no unreadable message 'nope'"),
    ],
)
async def test_a_missing_task_run_or_message_is_named(
    api: ApiHarness, path: str, line: str
) -> None:
    await api.submit(*TASKS)
    assert error_line(await api.http.post(path, json={}), 404) == line


async def test_a_token_guards_the_actions_of_operators() -> None:
    async with ApiHarness(token="geheim") as api:
        for path in _ACTIONS:
            error_line(await api.http.post(path, json={}), 401)
        error_line(await api.http.delete("/api/parked/x"), 401)
        for path in ("/api/dead", "/api/parked", "/api/tasks/default/1/explain"):
            error_line(await api.http.get(path), 401)


# --- a standby manager -------------------------------------------------------------------------


class StandbyStore(MemoryStore):
    """A store with the rows of another one; another manager has the leadership."""

    def __init__(self, other: MemoryStore) -> None:
        self.__dict__ = other.__dict__

    async def acquire(self) -> bool:
        return False


async def test_a_standby_manager_answers_reads_and_refuses_actions() -> None:
    broker = MemoryBroker()
    async with ApiHarness(broker=broker) as first:
        await first.submit(*TASKS)
        await first.connect_fake_worker("Junior", 3, slots=2)
        store = StandbyStore(first.store)
        async with ApiHarness(broker=broker, store=store, leading=False) as second:
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
                line = error_line(await second.http.post(path, json={}), 503)
                assert line == "this manager does not lead now; ask again in a moment"
            error_line(await second.http.delete("/api/parked/x"), 503)
            error_line(await second.submit(TASKS[0]), 503)
        assert (await first.get("/api/summary"))["manager"]["leading"] is True


# --- metrics ---------------------------------------------------------------------------------


async def test_metrics_count_retries_stale_results_and_dead_lettered_tasks(api: ApiHarness) -> None:
    await api.submit(TASKS[0])
    await api.dead_letter_tasks("1")
    await api.post("/api/tasks/default/1/retry")
    stale = TaskResult(run="default", id="1", attempt=1, outcome="succeeded")  # type: ignore[arg-type]
    message = TaskResults(worker="victim", incarnation="Victim-1", results=(stale,))
    await api.report("result.victim", message)
    await until_async(
        lambda: api.manager.counters.stale_results, "the stale result should be counted"
    )
    await api.send_unreadable()
    lines = set((await api.http.get("/metrics")).text.splitlines())
    assert {
        'skillq_tasks_ended_total{status="dead_lettered"} 1.0',
        'skillq_attempts_ended_total{outcome="lost"} 3.0',
        "skillq_retries_total 2.0",
        "skillq_tasks_sent_again_total 1.0",
        "skillq_stale_results_total 1.0",
        "skillq_parked_messages_total 1.0",
        "skillq_manager_leader 1.0",
    } <= lines
