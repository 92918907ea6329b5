"""Processes die between any two of their steps and are started again.

In each test one process kills itself by SIGKILL at one crash point (`skillq.runtime.crash_points`).
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
from tests.e2e.conftest import prepare_folder
from tests.e2e.processes import Process, System, start_counts
from tests.support.broker import Broker
from tests.support.postgres import Postgres
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]

MANAGER = ["received", "decided", "committed", "sent", "confirmed", "acked"]
WORKER = ["received", "accepted", "acked", "started", "finished", "confirmed"]


@dataclass
class CrashTestSystem:
    """A manager and two workers that all tests of this module share."""

    system: System
    broker_url: str
    store_url: str
    latest_manager: Process | None = None

    def start_manager(self, crash_at: str = "") -> Process:
        """Start a manager after ending the lease of the last leader, which is dead."""
        if "postgresql" in self.store_url:
            asyncio.run(_end_lease(self.store_url))
        self.latest_manager = self.system.start_manager(store_url=self.store_url, crash_at=crash_at)
        return self.latest_manager

    @property
    def running_manager(self) -> Process:
        if self.latest_manager is None or self.latest_manager.has_exited:
            self.latest_manager = self.start_manager()
        return self.latest_manager

    def submit(self, run: str, tasks: list[Task]) -> None:
        """Submit tasks without waiting for a manager."""

        async def submit() -> None:
            async with RabbitTransport(
                self.broker_url, app_id="tests", connection_name="tests"
            ) as transport:
                await Client(transport, name="tests").submit(run, tasks, wait=0)

        asyncio.run(submit())

    def assert_all_succeed_once(self, run: str, tasks: list[Task]) -> None:
        """Wait until all have succeeded; check that no result of a task was counted twice."""
        manager = self.running_manager
        until(
            lambda: all(task["status"] == "succeeded" for task in self._rows(manager, run, tasks)),
            f"all of {run} should succeed",
        )
        for task in tasks:
            attempts = manager.get_json(f"/api/tasks/{run}/{task.id}")["attempts"]
            counted = [one["outcome"] for one in attempts if one["counted"]]
            assert counted.count("succeeded") == 1
            assert counted[-1] == "succeeded"
            assert set(counted) <= {"succeeded", "lost"}
        view = manager.get_json(f"/api/runs/{run}")
        assert {status: n for status, n in view["counts"].items() if n} == {"succeeded": len(tasks)}

    def _rows(self, manager: Process, run: str, tasks: list[Task]) -> list[dict[str, object]]:
        if all(one["run"] != run for one in manager.get_json("/api/runs?limit=1000")["items"]):
            return [{"status": "unknown"}]
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
def crash_system(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CrashTestSystem]:
    folder = tmp_path_factory.mktemp("crash-tests")
    prepare_folder(folder)
    with ExitStack() as stack:
        broker_url = stack.enter_context(broker.vhost())
        store_url = "sqlite:///skillq.db"
        if request.param == "postgresql":
            postgres: Postgres = request.getfixturevalue("postgres")
            store_url = stack.enter_context(postgres.database_sync())
        system = stack.enter_context(System(broker_url, folder))
        crash_system = CrashTestSystem(system, broker_url, store_url)
        crash_system.start_manager().wait_for_log("leading")
        for name in ("one", "two"):
            system.start_worker(name, 5, "my_tasks:handlers").wait_for_log("connected")
        yield crash_system


def some_tasks(prefix: str, count: int, **fields: Any) -> list[Task]:
    """Return tasks of which the last one depends on all others."""
    ids = [f"{prefix}-{n}" for n in range(count)]
    tasks = [Task(id=id, difficulty=1, type="work", **fields) for id in ids]
    return [*tasks[:-1], tasks[-1].model_copy(update={"depends_on": tuple(ids[:-1])})]


def executions_of(crash_system: CrashTestSystem, tasks: list[Task]) -> dict[str, int]:
    counts = start_counts(crash_system.system.folder)
    return {task.id: counts[task.id] for task in tasks}


@pytest.mark.parametrize("point", MANAGER)
def test_a_manager_killed_twice_at_this_point_loses_no_task_and_runs_none_twice(
    crash_system: CrashTestSystem, point: str
) -> None:
    crash_system.running_manager.kill()
    tasks = some_tasks(f"m-{point}", 6)
    crash_system.submit(f"manager {point}", tasks)
    crash_system.start_manager(f"manager.{point}").wait_for_crash()
    crash_system.start_manager(f"manager.{point}:3").wait_for_crash()
    crash_system.start_manager()
    crash_system.assert_all_succeed_once(f"manager-{point}", tasks)
    assert executions_of(crash_system, tasks) == {task.id: 1 for task in tasks}


@pytest.mark.parametrize("point", WORKER)
def test_a_worker_killed_at_this_point_loses_no_task_and_repeats_only_unreported_ones(
    crash_system: CrashTestSystem, point: str
) -> None:
    manager = crash_system.running_manager
    victim = f"victim {point}"

    def start(**more: object) -> Process:
        return crash_system.system.start_worker(
            victim, 5, "my_tasks:handlers", specialty=f"w-{point}", **more
        )

    first = start(crash_at=f"worker.{point}:2")
    tasks = some_tasks(f"w-{point}", 4, requires=(f"w-{point}",))
    crash_system.submit(f"worker {point}", tasks)
    first.wait_for_crash()
    second = start()
    crash_system.assert_all_succeed_once(f"worker-{point}", tasks)
    counts = executions_of(crash_system, tasks)
    assert set(counts.values()) <= {1, 2}
    # The result of the first task may not be confirmed when the second is finished.
    most = {"received": 0, "accepted": 0, "finished": 2}.get(point, 1)
    assert sum(counts.values()) - len(tasks) <= most
    second.kill()
    assert crash_system.running_manager is manager, "the manager should not have died"
