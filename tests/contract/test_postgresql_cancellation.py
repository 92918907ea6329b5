"""A call to PostgreSQL may be cancelled at any moment: connections and commits stay intact."""

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection

import skillq_manager.store.sql.postgresql as module
from skillq import timings
from skillq_manager.store.base import StoreFailed, TaskFilter
from skillq_manager.store.sql.database import Work
from skillq_manager.store.sql.postgresql import Postgresql
from skillq_manager.store.sql.store import SqlStore
from tests.contract.store_history import RUN, RandomHistory, add
from tests.support.waiting import until_async

ALL = TaskFilter()


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[SqlStore]:
    async with SqlStore(postgres_url) as store:
        assert await store.acquire()
        yield store


def database(store: SqlStore) -> Postgresql:
    assert isinstance(store._database, Postgresql)
    return store._database


def sleep(seconds: float) -> Work[None]:
    def work(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_sleep({seconds})")

    return work


def slow(seconds: float, started: list[Any]) -> Work[None]:
    """Return work that records the process id of its connection in `started` and then takes `seconds`."""

    def work(connection: Connection) -> None:
        started.append(backend_pid(connection))
        sleep(seconds)(connection)

    return work


def backend_pid(connection: Connection) -> Any:
    return connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("way", ["read_snapshot", "read", "write"])
async def test_a_connection_is_usable_again_after_a_cancelled_statement(
    store: SqlStore, way: str
) -> None:
    store_database = database(store)
    used: list[Any] = []
    for times in range(1, 6):
        task = asyncio.create_task(getattr(store_database, way)(slow(0.1, used)))
        await until_async(partial(lambda n: len(used) == n, times), "the statement should run")
        await cancel_and_wait(task)
        async with asyncio.timeout(5):
            assert await store.acquire()
            assert await store.tasks(ALL) == []
    assert len(set(used)) <= module.READ_CONNECTIONS, "no connection should be replaced"


async def test_a_commit_is_finished_when_its_cancelled_caller_ends(
    store: SqlStore,
) -> None:
    for n in range(20):
        commit = asyncio.create_task(store.commit([add(n + 1, f"t{n}")]))
        await asyncio.sleep(n * 0.0004)
        started = bool(database(store)._active)
        await cancel_and_wait(commit) if not commit.done() else None
        stored_ids = {row.task.id for row in await store.tasks(ALL)}
        assert (f"t{n}" in stored_ids) or not started


async def test_the_store_continues_after_repeated_cancellations_at_any_moment(
    store: SqlStore,
) -> None:
    chance, world = random.Random(1), RandomHistory(1)
    for _ in range(60):
        work = [
            asyncio.create_task(store.commit(world.next_commands())),
            asyncio.create_task(store.tasks(ALL)),
            asyncio.create_task(database(store).read_snapshot(sleep(0.005))),
        ]
        await asyncio.sleep(chance.random() * 0.008)
        for _ in range(chance.randrange(1, 5)):
            for task in work:
                task.cancel()
            await asyncio.sleep(chance.random() * 0.001)
        await asyncio.gather(*work, return_exceptions=True)
        async with asyncio.timeout(5):
            assert await store.acquire()
            await store.tasks(ALL)
            await store.run(RUN)


async def test_a_cancelled_statement_that_does_not_end_is_cut_off_and_the_store_continues(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "DATABASE_END_SECONDS", 0.1)
    started: list[Any] = []
    task = asyncio.create_task(database(store).read(slow(60, started)))
    await until_async(lambda: started, "the statement should run")
    async with asyncio.timeout(5):
        await cancel_and_wait(task)
        assert await store.acquire()
        assert await store.tasks(ALL) == []


async def test_the_store_fails_if_all_its_connections_are_in_use_for_too_long(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "DATABASE_POOL_SECONDS", 0.1)
    async with SqlStore(postgres_url) as store:
        started: list[Any] = []
        work = slow(0.8, started)
        running = [
            asyncio.create_task(database(store).read_snapshot(work))
            for _ in range(module.READ_CONNECTIONS)
        ]
        await until_async(
            lambda: len(started) == module.READ_CONNECTIONS, "all statements should run"
        )
        with pytest.raises(StoreFailed, match=r"^the store postgresql://.* failed: "):
            await store.tasks(ALL)
        await asyncio.gather(*running)
        assert await store.tasks(ALL) == []
