"""The tables of the stores on SQLite and PostgreSQL: made by migrations, and found by their indexes."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import create_async_engine

from skillq.messages import TaskStatus
from skillq_manager.store import migrate, reading, schema
from skillq_manager.store.base import Filter
from skillq_manager.store.sql import SqlStore


def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", "skillq_manager.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def test_the_newest_migration_is_the_one_that_the_schema_names() -> None:
    assert ScriptDirectory.from_config(migrations()).get_current_head() == schema.HEAD


async def test_a_database_of_the_first_release_is_brought_up_to_date_with_what_is_in_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "old.db"
    old = create_engine(f"sqlite:///{file}")
    config = migrations()
    with old.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in _A_TASK:
            connection.exec_driver_sql(statement)
    old.dispose()
    async with SqlStore(f"sqlite:///{file}") as store:
        assert store.id == "old"
        assert [(run.run, run.counts) for run in await store.runs()] == [
            ("r", {TaskStatus.READY: 1})
        ]
        assert [row.task.id async for page in store.load() for row in page] == ["a"]
    with create_engine(f"sqlite:///{file}").connect() as connection:
        assert migrate.version(connection) == schema.HEAD


_A_TASK = (
    "INSERT INTO meta VALUES ('id', 'old')",
    "INSERT INTO runs VALUES ('r', 'R', 1.0, NULL, 1)",
    "INSERT INTO run_counts VALUES ('r', 'ready', 1)",
    """INSERT INTO tasks (seq, run, id, status, type, fingerprint, submitted_at, failures, losses, attempt)
    VALUES (1, 'r', 'a', 'ready', 'task', 7, 1.0, 0, 0, 0)""",
    "INSERT INTO definitions VALUES (1, '{\"difficulty\":3}', NULL, NULL)",
)


async def test_the_migrations_make_the_tables_that_the_schema_says_on_sqlite(
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


async def test_the_migrations_make_the_tables_that_the_schema_says_on_postgresql(
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
        (Filter(run="r"), "tasks_run"),
        (Filter(run="r", ids=("a", "b")), "tasks_key"),
        (Filter(worker="Ada"), "tasks_worker"),
        (Filter(status=TaskStatus.READY), "tasks_live"),
        (Filter(status=TaskStatus.BLOCKED), "tasks_live"),
        (Filter(status=TaskStatus.ASSIGNED), "tasks_held"),
        (Filter(status=TaskStatus.RUNNING), "tasks_held"),
        (Filter(status=TaskStatus.FAILED), "tasks_ended_badly"),
        (Filter(status=TaskStatus.DEAD_LETTERED), "tasks_ended_badly"),
        (Filter(status=TaskStatus.SUCCEEDED), "PRIMARY KEY"),
        (Filter(), "PRIMARY KEY"),
    ],
    ids=str,
)
async def test_a_page_is_found_by_an_index(tmp_path: Path, which: Filter, index: str) -> None:
    async with SqlStore(f"sqlite:///{tmp_path}/skillq.db"):
        pass
    query = reading.page_query(which).compile(
        dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
    )
    with sqlite3.connect(tmp_path / "skillq.db") as file:
        (first, *_) = file.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    file.close()
    assert first[3].startswith("SEARCH tasks")
    assert index in first[3]
