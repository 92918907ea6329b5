"""A manager that keeps a long backlog in its store behaves as if all tasks were in memory."""

from collections.abc import AsyncIterator

import pytest

from skillq.messages import TaskStatus
from skillq.transport.memory import MemoryBroker
from skillq_manager.store.memory import MemoryStore
from tests.support.manager_harness import ApiHarness, ManagerHarness, simple_tasks
from tests.support.waiting import until_async

BACKLOG_KEEP = 2
MANY = [{"id": n, "difficulty": 4} for n in range(20)]


@pytest.fixture
async def api() -> AsyncIterator[ApiHarness]:
    async with ApiHarness(backlog_keep=BACKLOG_KEEP) as api:
        yield api


async def test_all_tasks_of_a_long_backlog_are_done() -> None:
    async with ManagerHarness(backlog_keep=BACKLOG_KEEP) as harness:
        await harness.connect_worker("Ada", slots=3)
        done = await harness.complete(*simple_tasks(50))
    assert done.has_succeeded
    ended = [event for event in harness.events if event.status is TaskStatus.SUCCEEDED]
    assert len(ended) == 50
    assert harness.completed_runs == ["default"]


async def test_the_next_manager_does_the_backlog_of_the_last() -> None:
    broker, store = MemoryBroker(), MemoryStore()
    async with ManagerHarness(broker=broker, store=store, backlog_keep=BACKLOG_KEEP) as harness:
        client = await harness.client()
        await client.submit("default", simple_tasks(30))
        assert len(harness.manager.state.tasks.live) <= 2 * BACKLOG_KEEP
        assert not harness.manager.state.is_idle
    async with ManagerHarness(broker=broker, store=store, backlog_keep=BACKLOG_KEEP) as harness:
        assert harness.manager.state.tasks.open == {"default": 30}
        assert len(harness.manager.state.tasks.live) <= 2 * BACKLOG_KEEP
        await harness.connect_worker("Ada")
        await until_async(lambda: harness.completed_runs, "the run should complete")
        run = await store.run("default")
        assert run is not None
        assert run.counts == {TaskStatus.SUCCEEDED: 30}


async def test_a_task_in_the_backlog_is_explained_like_one_in_memory(api: ApiHarness) -> None:
    await api.submit(*MANY)
    await api.connect_fake_worker("Junior", 3)
    first, last = [await api.get(f"/api/tasks/default/{id}/explain") for id in (0, 19)]
    assert ("default", "19") not in api.manager.state.tasks.live
    assert last["reason"] == "no worker can do it: it needs skill 4, the best has 3"
    assert last | {"id": "0"} == first
    assert last["workers"][0]["verdict"] == "has skill 3 for it; it needs 4"


@pytest.mark.parametrize("page", [4, 10_000])
async def test_cancelling_a_run_cancels_its_backlog_page_by_page(
    api: ApiHarness, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_manager.store.base.BACKLOG_PAGE", page)
    await api.submit(*MANY)
    assert await api.post("/api/tasks/default/19/cancel") == {"run": "default", "cancelled": 1}
    assert await api.post("/api/runs/default/cancel") == {"run": "default", "cancelled": 19}
    assert api.manager.state.is_idle


async def test_a_task_in_the_backlog_cannot_be_retried(api: ApiHarness) -> None:
    await api.submit(*MANY)
    response = await api.http.post("/api/tasks/default/19/retry", json={})
    assert response.status_code == 409
    assert "has not ended" in response.text
