"""Two managers on one PostgreSQL: one leads, the other takes over when it has to."""

import asyncio
import json
import signal
from collections.abc import Callable
from time import monotonic

import asyncpg  # type: ignore[import-untyped]
import pytest

from tests.e2e.processes import Process, System, begun, real_durations, until
from tests.e2e.proxy import Proxy

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(180)]

TAKE_OVER_SECONDS = 15.0  # half of what the broker takes to notice that a leader is gone
TASKS = 60


@pytest.fixture
def first(system: System, shared_store: str, proxy: Proxy) -> Process:
    manager = system.manager(store_url=shared_store, broker_url=proxy.url)
    manager.says("leading")
    return manager


@pytest.fixture
def second(system: System, shared_store: str, first: Process) -> Process:
    manager = system.manager(store_url=shared_store)
    manager.says("standing_by")
    return manager


@pytest.fixture
def work(system: System, second: Process) -> Callable[[], None]:
    """Work that goes on for some seconds; what is returned waits until each task has been done once."""
    for name in ("one", "two"):
        system.worker(name, 5, "my_tasks:handlers").says("connected")
    tasks = [
        {"id": n, "difficulty": 1, "type": "work", "payload": {"seconds": 0.3}}
        for n in range(TASKS)
    ]
    system.skillq("submit", system.write("tasks.json", json.dumps({"tasks": tasks})))
    until(lambda: begun(system.here).total() >= 5, "the work is going on")

    def done() -> None:
        until(lambda: second.succeeded("default") == TASKS, "all should succeed")
        assert begun(system.here) == {str(n): 1 for n in range(TASKS)}

    return done


def takes_over(second: Process, since: float, within: float = TAKE_OVER_SECONDS) -> None:
    second.says("leading", seconds=within)
    assert monotonic() - since < within


@real_durations
def test_when_the_leader_is_killed_the_other_leads_within_15_seconds(
    first: Process, second: Process, work: Callable[[], None]
) -> None:
    began = monotonic()
    first.kill()
    takes_over(second, began)
    work()


@real_durations
def test_when_the_leader_leaves_the_other_leads_at_once(
    first: Process, second: Process, work: Callable[[], None]
) -> None:
    first.signal(signal.SIGTERM)
    assert first.ends() == 0
    second.says("leading", seconds=4)
    work()


@real_durations
def test_a_leader_that_was_paused_is_replaced_within_15_seconds_and_writes_nothing_when_it_wakes_up(
    first: Process, second: Process, work: Callable[[], None]
) -> None:
    began = monotonic()
    first.signal(signal.SIGSTOP)
    takes_over(second, began)
    told = len(first.log)
    first.signal(signal.SIGCONT)
    first.says("standing_by")
    work()
    events = {entry["event"] for entry in first.log[told:]}
    assert "leading" not in events
    assert events & {"stepped_down", "store_failed"}, "it says why"
    said = [one for m in (first, second) for one in m.logged("task_ended") if "now" not in one]
    assert len({one["task"][1] for one in said}) == len(said), "nothing was counted twice"
    assert first.succeeded("default") == TASKS


def test_a_leader_that_cannot_reach_the_broker_lets_the_other_lead(
    first: Process, second: Process, work: Callable[[], None], proxy: Proxy, time_scale: float
) -> None:
    began = monotonic()
    proxy.refuse()
    # Two seconds are for what takes as long at any scale: to connect, and to ask the database.
    takes_over(second, began, TAKE_OVER_SECONDS * time_scale + 2.0)
    proxy.heal()
    work()
    assert not first.is_over


def test_managers_whose_database_drops_them_go_on_by_themselves(
    first: Process, second: Process, work: Callable[[], None], shared_store: str
) -> None:
    asyncio.run(drop_all(shared_store))
    work()
    assert not first.is_over
    assert not second.is_over


async def drop_all(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
