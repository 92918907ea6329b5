"""A manager that leaves to its store what is far behind: nobody notices."""

from collections.abc import AsyncIterator

import pytest

from skillq.messages import TaskStatus
from skillq.transport.memory import MemoryBroker
from skillq_manager.store.memory import MemoryStore
from tests.unit.manager.desk import Desk
from tests.unit.manager.plant import Plant, tasks
from tests.unit.worker.boss import until

HEAD = 2
MANY = [{"id": n, "difficulty": 4} for n in range(20)]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk(MemoryBroker(), head=HEAD).open() as desk:
        yield desk


async def test_all_of_a_long_backlog_is_done() -> None:
    async with Plant(head=HEAD) as plant:
        await plant.hand("Ada", slots=3)
        done = await plant.complete(*tasks(50))
    assert done.has_succeeded
    ended = [event for event in plant.events if event.status is TaskStatus.SUCCEEDED]
    assert len(ended) == 50
    assert plant.completed == ["default"]


async def test_what_a_manager_left_on_shelves_the_next_one_does() -> None:
    broker, store = MemoryBroker(), MemoryStore()
    async with Plant(broker=broker, store=store, head=HEAD) as plant:
        client = await plant.client()
        await client.submit("default", tasks(30))
        assert len(plant.manager.state.tasks.live) <= 2 * HEAD
        assert not plant.manager.state.is_idle
    async with Plant(broker=broker, store=store, head=HEAD) as plant:
        assert plant.manager.state.tasks.open == {"default": 30}
        assert len(plant.manager.state.tasks.live) <= 2 * HEAD
        await plant.hand("Ada")
        await until(lambda: plant.completed)
        run = await store.run("default")
        assert run is not None
        assert run.counts == {TaskStatus.SUCCEEDED: 30}


async def test_why_a_task_on_a_shelf_waits_is_shown_as_of_one_in_memory(desk: Desk) -> None:
    await desk.submit(*MANY)
    await desk.join("Junior", 3)
    first, last = [await desk.get(f"/api/tasks/default/{id}/explain") for id in (0, 19)]
    assert ("default", "19") not in desk.manager.state.tasks.live
    assert last["reason"] == "no worker can do it: it needs skill 4, the best has 3"
    assert last | {"id": "0"} == first
    assert last["workers"][0]["verdict"] == "has skill 3 for it; it needs 4"


@pytest.mark.parametrize("page", [4, 10_000])
async def test_a_run_is_called_off_with_what_is_on_shelves_a_page_at_a_time(
    desk: Desk, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_manager.store.base.BACKLOG_PAGE", page)
    await desk.submit(*MANY)
    assert await desk.post("/api/tasks/default/19/cancel") == {"run": "default", "cancelled": 1}
    assert await desk.post("/api/runs/default/cancel") == {"run": "default", "cancelled": 19}
    assert desk.manager.state.is_idle


async def test_a_task_on_a_shelf_has_not_ended(desk: Desk) -> None:
    await desk.submit(*MANY)
    response = await desk.http.post("/api/tasks/default/19/retry", json={})
    assert response.status_code == 409
    assert "has not ended" in response.text
