"""The migrations create the tables of the schema, and queries use the indexes."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Select, create_engine, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import create_async_engine

from skillq.messages import TaskStatus
from skillq_manager.core.commands import RefillRequest
from skillq_manager.core.model import Need
from skillq_manager.store.base import TaskFilter
from skillq_manager.store.sql import queries, schema
from skillq_manager.store.sql.store import SqlStore
from tests.contract.store_history import RandomHistory, snapshot

BACKLOG = queries.refill_queries(RefillRequest(Need("task", 1, frozenset()), (-3, 7), 9))


def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", "skillq_manager.store.sql:migrations")
    config.set_main_option("path_separator", "os")
    return config


def test_the_schema_names_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(migrations()).get_current_head() == schema.HEAD


async def test_the_migrations_create_the_tables_of_the_schema_on_sqlite(
    tmp_path: Path,
) -> None:
    async with SqlStore(f"sqlite:///{tmp_path}/migrated.db"):
        pass
    migrated = create_engine(f"sqlite:///{tmp_path}/migrated.db")
    declared = create_engine(f"sqlite:///{tmp_path}/declared.db")
    schema.metadata.create_all(declared)
    assert _tables(migrated) == _tables(declared)


def _tables(engine: Engine) -> list[Any]:
    query = "SELECT sql FROM sqlite_master WHERE sql NOT LIKE '%skillq_version%' ORDER BY name"
    with engine.connect() as connection:
        found = [" ".join(sql.split()) for (sql,) in connection.execute(text(query))]
    engine.dispose()
    return found


async def test_the_migrations_create_the_tables_of_the_schema_on_postgresql(
    postgres_url: str,
) -> None:
    async with SqlStore(postgres_url):
        pass
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA declared"))
        await connection.execute(text("SET LOCAL search_path TO declared"))
        await connection.run_sync(schema.metadata.create_all)
        tables = {}
        for name in ("public", "declared"):
            columns = await connection.execute(text(_COLUMNS), {"schema": name})
            indexes = await connection.execute(text(_INDEXES), {"schema": name})
            tables[name] = [tuple(row) for row in columns], [row[0] for row in indexes]
    await engine.dispose()
    assert tables["public"] == tables["declared"]
    assert len(tables["public"][0]) > 40


_COLUMNS = """SELECT table_name, column_name, data_type, is_nullable, collation_name
FROM information_schema.columns WHERE table_schema = :schema AND table_name <> 'skillq_version'
ORDER BY table_name, column_name"""
_INDEXES = """SELECT replace(indexdef, schemaname || '.', '') FROM pg_indexes
WHERE schemaname = :schema AND tablename <> 'skillq_version' ORDER BY indexname"""


@pytest.mark.parametrize(
    ("which", "index"),
    [
        (TaskFilter(run="r"), "tasks_run"),
        (TaskFilter(run="r", ids=("a", "b")), "tasks_key"),
        (TaskFilter(worker="Ada"), "tasks_worker"),
        (TaskFilter(status=TaskStatus.READY), "tasks_live"),
        (TaskFilter(status=TaskStatus.BLOCKED), "tasks_live"),
        (TaskFilter(status=TaskStatus.ASSIGNED), "tasks_held"),
        (TaskFilter(status=TaskStatus.RUNNING), "tasks_held"),
        (TaskFilter(status=TaskStatus.FAILED), "tasks_ended_badly"),
        (TaskFilter(status=TaskStatus.DEAD_LETTERED), "tasks_ended_badly"),
        (TaskFilter(status=TaskStatus.SUCCEEDED), "PRIMARY KEY"),
        (TaskFilter(), "PRIMARY KEY"),
    ],
    ids=str,
)
async def test_a_page_of_tasks_is_read_by_an_index(
    tmp_path: Path, which: TaskFilter, index: str
) -> None:
    async with SqlStore(f"sqlite:///{tmp_path}/skillq.db"):
        pass
    (first, *_) = _plan(tmp_path / "skillq.db", queries.task_page_query(which))
    assert first.startswith("SEARCH tasks")
    assert index in first


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (queries.live_page_query(7, 9, queries.ALL_LIVE), "tasks_live (seq>?)"),
        (queries.live_page_query(7, 9, queries.NEVER_IN_BACKLOG), "tasks_live (seq>?)"),
        (queries.live_page_query(7, 9, queries.HELD_FROM_BACKLOG), "tasks_held"),
        (BACKLOG[0], "tasks_shelf (kind=? AND rank=? AND seq>?)"),
        (BACKLOG[1], "tasks_shelf (kind=? AND rank>?)"),
    ],
    ids=["all", "elsewhere", "taken", "backlog, same priority", "backlog, others"],
)
async def test_the_tasks_that_a_manager_loads_are_read_by_an_index(
    tmp_path: Path, query: Select[Any], index: str
) -> None:
    async with SqlStore(f"sqlite:///{tmp_path}/skillq.db"):
        pass
    first, *rest = _plan(tmp_path / "skillq.db", query)
    assert first.startswith("SEARCH tasks")
    assert index in first
    assert "tasks_held" in index or not any("SORT" in line or "B-TREE" in line for line in rest)


def _plan(path: Path, query: Select[Any]) -> list[str]:
    text = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    with closing(sqlite3.connect(path)) as file:
        return [line[3] for line in file.execute(f"EXPLAIN QUERY PLAN {text}")]


async def test_tables_of_the_first_release_are_migrated_with_their_contents(
    url: str,
) -> None:
    history = RandomHistory(5)
    async with SqlStore(url) as store:
        await store.acquire()
        for _ in range(40):
            await store.commit(history.next_commands())
        before = await snapshot(store, history.keys)
        await store._database.write(_back_to_the_first)
    async with SqlStore(url) as store:
        assert await snapshot(store, history.keys) == before
        assert (await store.backlog_summary()).needs == ()


def _back_to_the_first(connection: Connection) -> None:
    for statement in (
        "DROP INDEX tasks_shelf",
        "DROP INDEX tasks_live",
        "ALTER TABLE tasks DROP COLUMN kind",
        "ALTER TABLE tasks DROP COLUMN rank",
        "DROP TABLE kinds",
        "CREATE INDEX tasks_live ON tasks (seq) WHERE finished_at IS NULL",
        "DROP INDEX tasks_ended_badly",
        "CREATE INDEX tasks_ended_badly ON tasks (status, seq) WHERE status IN "
        "('failed', 'timed_out', 'cancelled', 'dead_lettered')",
        "UPDATE skillq_version SET version_num = '0001'",
    ):
        connection.execute(text(statement))
