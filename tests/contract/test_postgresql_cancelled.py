"""Who waits for PostgreSQL may be cancelled at any moment: its connections are whole afterwards, and so is what was written."""

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
from tests.contract.store_story import RUN, World, add
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


def slow(seconds: float, begun: list[Any]) -> Work[None]:
    """Says that it has begun, with the connection it has, and takes so long."""

    def work(connection: Connection) -> None:
        begun.append(backend(connection))
        sleep(seconds)(connection)

    return work


def backend(connection: Connection) -> Any:
    return connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("way", ["look", "read", "write"])
async def test_after_a_cancelled_statement_its_connection_is_whole_and_used_again(
    store: SqlStore, way: str
) -> None:
    base = database(store)
    used: list[Any] = []
    for times in range(1, 6):
        task = asyncio.create_task(getattr(base, way)(slow(0.1, used)))
        await until_async(partial(lambda n: len(used) == n, times), "the statement should run")
        await cancelled(task)
        async with asyncio.timeout(5):
            assert await store.acquire()
            assert await store.tasks(ALL) == []
    assert len(set(used)) <= module.READ_CONNECTIONS, "none had to be thrown away"


async def test_a_commit_whose_waiter_was_cancelled_is_there_when_the_waiter_has_ended(
    store: SqlStore,
) -> None:
    for n in range(20):
        commit = asyncio.create_task(store.commit([add(n + 1, f"t{n}")]))
        await asyncio.sleep(n * 0.0004)
        started = bool(database(store)._active)
        await cancelled(commit) if not commit.done() else None
        there = {row.task.id for row in await store.tasks(ALL)}
        assert (f"t{n}" in there) or not started


async def test_cancelled_again_and_again_anywhere_the_store_goes_on(store: SqlStore) -> None:
    chance, world = random.Random(1), World(1)
    for _ in range(60):
        work = [
            asyncio.create_task(store.commit(world.turn())),
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


async def test_what_does_not_end_is_cut_off_and_the_store_goes_on(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "DATABASE_END_SECONDS", 0.1)
    begun: list[Any] = []
    task = asyncio.create_task(database(store).read(slow(60, begun)))
    await until_async(lambda: begun, "the statement should run")
    async with asyncio.timeout(5):
        await cancelled(task)
        assert await store.acquire()
        assert await store.tasks(ALL) == []


async def test_when_all_connections_are_in_use_for_too_long_the_store_has_failed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "DATABASE_POOL_SECONDS", 0.1)
    async with SqlStore(postgres_url) as store:
        begun: list[Any] = []
        work = slow(0.8, begun)
        busy = [
            asyncio.create_task(database(store).read_snapshot(work))
            for _ in range(module.READ_CONNECTIONS)
        ]
        await until_async(
            lambda: len(begun) == module.READ_CONNECTIONS, "all statements should run"
        )
        with pytest.raises(StoreFailed, match=r"^the store postgresql://.* failed: "):
            await store.tasks(ALL)
        await asyncio.gather(*busy)
        assert await store.tasks(ALL) == []
