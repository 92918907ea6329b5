"""Of two managers on one PostgreSQL one leads, and the other leads when the first cannot."""

import asyncio
import json
import signal
from collections.abc import Callable
from time import monotonic

import asyncpg  # type: ignore[import-untyped]
import pytest

from tests.e2e.processes import Process, System, real_durations, start_counts
from tests.e2e.proxy import Proxy
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(180)]

TAKE_OVER_SECONDS = 15.0  # half of what the broker takes to notice that a leader is gone
TASKS = 60


@pytest.fixture
def first(system: System, shared_store: str, proxy: Proxy) -> Process:
    manager = system.start_manager(store_url=shared_store, broker_url=proxy.url)
    manager.wait_for_log("leading")
    return manager


@pytest.fixture
def second(system: System, shared_store: str, first: Process) -> Process:
    manager = system.start_manager(store_url=shared_store)
    manager.wait_for_log("standing_by")
    return manager


@pytest.fixture
def wait_for_work(system: System, second: Process) -> Callable[[], None]:
    """Submit work for some seconds; return a function that waits until each task has run once."""
    for name in ("one", "two"):
        system.start_worker(name, 5, "my_tasks:handlers").wait_for_log("connected")
    tasks = [
        {"id": n, "difficulty": 1, "type": "work", "payload": {"seconds": 0.3}}
        for n in range(TASKS)
    ]
    system.start_cli("submit", system.write_file("tasks.json", json.dumps({"tasks": tasks})))
    until(lambda: start_counts(system.folder).total() >= 5, "the work should be going on")

    def done() -> None:
        until(lambda: second.succeeded_count("default") == TASKS, "all should succeed")
        assert start_counts(system.folder) == {str(n): 1 for n in range(TASKS)}

    return done


def assert_takes_over(second: Process, since: float, within: float = TAKE_OVER_SECONDS) -> None:
    second.wait_for_log("leading", seconds=within)
    assert monotonic() - since < within


@real_durations
def test_a_standby_leads_within_15_seconds_after_the_leader_is_killed(
    first: Process, second: Process, wait_for_work: Callable[[], None]
) -> None:
    began = monotonic()
    first.kill()
    assert_takes_over(second, began)
    wait_for_work()


@real_durations
def test_a_standby_leads_at_once_when_the_leader_leaves(
    first: Process, second: Process, wait_for_work: Callable[[], None]
) -> None:
    first.signal(signal.SIGTERM)
    assert first.wait_for_exit() == 0
    second.wait_for_log("leading", seconds=4)
    wait_for_work()


@real_durations
def test_a_paused_leader_is_replaced_within_15_seconds_and_writes_nothing_when_it_resumes(
    first: Process, second: Process, wait_for_work: Callable[[], None]
) -> None:
    began = monotonic()
    first.signal(signal.SIGSTOP)
    assert_takes_over(second, began)
    logged_before = len(first.log)
    first.signal(signal.SIGCONT)
    first.wait_for_log("standing_by")
    wait_for_work()
    events = {entry["event"] for entry in first.log[logged_before:]}
    assert "leading" not in events
    assert events & {"stepped_down", "store_failed"}, "the log should have the reason"
    ended = [one for m in (first, second) for one in m.logged("task_ended") if "now" not in one]
    assert len({one["task"][1] for one in ended}) == len(ended), "no task should be counted twice"
    assert first.succeeded_count("default") == TASKS


def test_a_leader_that_cannot_reach_the_broker_lets_the_standby_lead(
    first: Process,
    second: Process,
    wait_for_work: Callable[[], None],
    proxy: Proxy,
    time_scale: float,
) -> None:
    began = monotonic()
    proxy.refuse()
    # Connecting and queries take two seconds more, at any scale.
    assert_takes_over(second, began, TAKE_OVER_SECONDS * time_scale + 2.0)
    proxy.heal()
    wait_for_work()
    assert not first.has_exited


def test_managers_reconnect_by_themselves_after_the_database_closed_their_connections(
    first: Process, second: Process, wait_for_work: Callable[[], None], shared_store: str
) -> None:
    asyncio.run(close_all_connections(shared_store))
    wait_for_work()
    assert not first.has_exited
    assert not second.has_exited


async def close_all_connections(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
