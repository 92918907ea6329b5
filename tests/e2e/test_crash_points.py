"""Processes that die between any two of their steps, and are started again.

Each test kills one process at one point, by its own hand: SIGKILL from `skillq.runtime.crash_points`. The others live on.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from skillq.client import Client
from skillq.messages import Task
from skillq.transport.rabbitmq import RabbitTransport
from tests.broker import Broker
from tests.e2e.conftest import lay_out
from tests.e2e.processes import Process, System, begun, until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]

MANAGER = ["received", "decided", "committed", "sent", "confirmed", "acked"]
WORKER = ["received", "accepted", "acked", "started", "finished", "confirmed"]


@dataclass
class Plant:
    """A manager and two workers that outlive the tests, as far as those let them."""

    system: System
    broker_url: str
    store_url: str
    leader: Process | None = None

    def manager(self, crash_at: str = "") -> Process:
        """Start the manager; whoever led is dead, and its lease over."""
        if "postgresql" in self.store_url:
            asyncio.run(_end_lease(self.store_url))
        self.leader = self.system.manager(store_url=self.store_url, crash_at=crash_at)
        return self.leader

    @property
    def serving(self) -> Process:
        if self.leader is None or self.leader.is_over:
            self.leader = self.manager()
        return self.leader

    def submit(self, run: str, tasks: list[Task]) -> None:
        """Hand tasks in; they wait for a manager."""

        async def submit() -> None:
            async with RabbitTransport(
                self.broker_url, app_id="tests", connection_name="tests"
            ) as transport:
                await Client(transport, name="tests").submit(run, tasks, wait=0)

        asyncio.run(submit())

    def all_succeed_once(self, run: str, tasks: list[Task]) -> None:
        """Wait until they have; no second attempt of any of them has counted."""
        manager = self.serving
        until(
            lambda: all(task["status"] == "succeeded" for task in self._rows(manager, run, tasks)),
            f"all of {run} should succeed",
        )
        for task in tasks:
            attempts = manager.ask(f"/api/tasks/{run}/{task.id}")["attempts"]
            counted = [one["outcome"] for one in attempts if one["counted"]]
            assert counted.count("succeeded") == 1
            assert counted[-1] == "succeeded"
            assert set(counted) <= {"succeeded", "lost"}
        view = manager.ask(f"/api/runs/{run}")
        assert {status: n for status, n in view["counts"].items() if n} == {"succeeded": len(tasks)}

    def _rows(self, manager: Process, run: str, tasks: list[Task]) -> list[dict[str, object]]:
        if all(one["run"] != run for one in manager.ask("/api/runs?limit=1000")["items"]):
            return [{"status": "not there"}]
        rows = manager.tasks(run)
        assert len(rows) == len(tasks)
        return rows


async def _end_lease(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        if await connection.fetchval("SELECT to_regclass('leader')"):
            await connection.execute("UPDATE leader SET expires_at = 0")
    finally:
        await connection.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def plant(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    here = tmp_path_factory.mktemp("plant")
    lay_out(here)
    with ExitStack() as stack:
        broker_url = stack.enter_context(broker.vhost())
        store_url = "sqlite:///skillq.db"
        if request.param == "postgresql":
            store_url = stack.enter_context(request.getfixturevalue("postgres").own_database())
        system = stack.enter_context(System(broker_url, here))
        plant = Plant(system, broker_url, store_url)
        plant.manager().says("leading")
        for name in ("one", "two"):
            system.worker(name, 5, "my_tasks:handlers").says("connected")
        yield plant


def some_tasks(prefix: str, count: int, **fields: Any) -> list[Task]:
    """Tasks of which the last one waits for all others."""
    ids = [f"{prefix}-{n}" for n in range(count)]
    tasks = [Task(id=id, difficulty=1, type="work", **fields) for id in ids]
    return [*tasks[:-1], tasks[-1].model_copy(update={"depends_on": tuple(ids[:-1])})]


def executions_of(plant: Plant, tasks: list[Task]) -> dict[str, int]:
    times = begun(plant.system.here)
    return {task.id: times[task.id] for task in tasks}


@pytest.mark.parametrize("point", MANAGER)
def test_a_manager_killed_there_twice_loses_nothing_and_has_nothing_done_twice(
    plant: Plant, point: str
) -> None:
    plant.serving.kill()
    tasks = some_tasks(f"m-{point}", 6)
    plant.submit(f"manager {point}", tasks)
    plant.manager(f"manager.{point}").dies()
    plant.manager(f"manager.{point}:3").dies()
    plant.manager()
    plant.all_succeed_once(f"manager-{point}", tasks)
    assert executions_of(plant, tasks) == {task.id: 1 for task in tasks}


@pytest.mark.parametrize("point", WORKER)
def test_a_worker_killed_there_loses_nothing_and_repeats_at_most_what_it_had_not_reported(
    plant: Plant, point: str
) -> None:
    manager = plant.serving
    victim = f"victim {point}"

    def start(**more: object) -> Process:
        return plant.system.worker(victim, 5, "my_tasks:handlers", specialty=f"w-{point}", **more)

    first = start(crash_at=f"worker.{point}:2")
    tasks = some_tasks(f"w-{point}", 4, requires=(f"w-{point}",))
    plant.submit(f"worker {point}", tasks)
    first.dies()
    second = start()
    plant.all_succeed_once(f"worker-{point}", tasks)
    times = executions_of(plant, tasks)
    assert set(times.values()) <= {1, 2}
    # The result of the first may not have been confirmed yet when the second was finished.
    most = {"received": 0, "accepted": 0, "finished": 2}.get(point, 1)
    assert sum(times.values()) - len(tasks) <= most
    second.kill()
    assert plant.serving is manager, "it had nothing to die of"
