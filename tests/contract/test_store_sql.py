"""The stores on SQLite and PostgreSQL are durable, have one writer, and report clear errors."""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
import pytest

from skillq.errors import SkillqError, Unreachable, UsageError
from skillq.messages import TaskStatus
from skillq_manager.store.base import LeadershipLost, TaskFilter
from skillq_manager.store.sql.database import Work
from skillq_manager.store.sql.postgresql import Postgresql
from skillq_manager.store.sql.store import SqlStore
from tests.contract import endless_commits
from tests.contract.store_history import (
    RUN,
    SUCCEEDED,
    RandomHistory,
    add,
    assign,
    end,
    snapshot,
    stale,
)

READY = TaskStatus.READY


async def refusal(url: str, error: type[SkillqError], **options: Any) -> str:
    """Return the error of a store that cannot be opened; check that it is one line."""
    with pytest.raises(error) as caught:
        async with SqlStore(url, **({"connect_timeout": 0.0} | options)):
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert not urlsplit(url).password or str(urlsplit(url).password) not in message
    return message


# --- durability


async def test_a_reopened_store_shows_the_same(url: str) -> None:
    history = RandomHistory(3)
    async with SqlStore(url) as store:
        await store.acquire()
        for _ in range(60):
            await store.commit(history.next_commands())
        before, name = await snapshot(store, history.keys), store.id
    async with SqlStore(url) as store:
        assert store.id == name
        assert await snapshot(store, history.keys) == before


@pytest.mark.timeout(120)
async def test_every_commit_of_a_killed_process_is_stored_completely(url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        endless_commits.__name__,
        url,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([".", *sys.path])},
    )
    assert process.stdout is not None
    line = b""
    for _ in range(15):
        line = await process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest = await process.stdout.read()
    await process.wait()
    reported = int((rest.split(b"\n")[-2] if rest.count(b"\n") else line) or b"0")
    assert reported >= 15
    async with SqlStore(url) as store:
        assert await store.acquire()
        for n in range(1, reported + 1):
            ids = [f"{n}-{i}" for i in range(endless_commits.SIZE)]
            rows = [await store.task((RUN, id)) for id in ids]
            assert {(row.status, str(row.output)) for row in rows if row} == {(SUCCEEDED, f"[{n}]")}
            assert None not in rows
        found = await store.run(RUN)
        assert found is not None
        last = {status: n for status, n in found.counts.items() if status is not SUCCEEDED}
        assert all(
            n == endless_commits.SIZE for n in last.values()
        )  # a commit is complete or missing
        assert sum(found.counts.values()) % endless_commits.SIZE == 0


async def test_a_full_disk_is_an_error_and_leaves_no_partial_commit(tmp_path: Path) -> None:
    def limit(pages: int) -> Work[object]:
        return lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    async with SqlStore(f"sqlite:///{tmp_path}/skillq.db") as store:
        await store.commit([add(1, "a")])
        await store._database.read(limit(1))  # no more pages than now
        many = [add(n, f"t{n}", payload={"x": "x" * 1000}) for n in range(2, 500)]
        with pytest.raises(Unreachable, match="full"):
            await store.commit([assign("a"), *many])
        assert await store.last_seq() == 1
        await store._database.read(limit(2**30))
        await store.commit([assign("a"), *many])
        assert await store.last_seq() == 499


async def test_reading_continues_during_a_long_commit(tmp_path: Path) -> None:
    async with SqlStore(f"sqlite:///{tmp_path}/skillq.db") as store:
        await store.commit([add(1, "a")])
        many = [add(n, f"t{n}") for n in range(2, 40_000)]
        writing = asyncio.create_task(store.commit(many))
        seen = [len(await store.tasks(TaskFilter()))]
        while not writing.done():
            seen.append(len(await store.tasks(TaskFilter())))
        await writing
        assert set(seen) <= {1, 100}  # before or after the commit, never a part of it
        assert len(seen) > 3


# --- leadership


async def test_a_second_manager_on_the_same_file_is_refused_with_the_pid_of_the_first(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/skillq.db"
    async with SqlStore(url):
        message = await refusal(url, UsageError)
        assert f"another manager (pid {os.getpid()})" in message
    async with SqlStore(url):  # the file is free again
        pass


async def test_the_first_manager_leads_and_the_others_can_read(postgres_url: str) -> None:
    async with SqlStore(postgres_url) as one, SqlStore(postgres_url) as other:
        assert one.id == other.id
        assert await one.acquire()
        assert not await other.acquire()
        assert await one.acquire()  # the leader stays the leader
        await one.commit([add(1, "a")])
        assert await other.known_tasks([(RUN, "a")])
        assert [row.task.id for row in await other.tasks(TaskFilter())] == ["a"]
        with pytest.raises(LeadershipLost):
            await other.commit([add(2, "b")])
        assert await other.last_seq() == 1


async def test_a_store_without_leadership_cannot_write(postgres_url: str) -> None:
    async with SqlStore(postgres_url) as store:
        with pytest.raises(LeadershipLost):
            await store.commit([add(1, "a")])


async def test_a_leader_that_resumes_after_its_lease_can_write_nothing(postgres_url: str) -> None:
    async with (
        SqlStore(postgres_url, lease_seconds=0.0) as paused,
        SqlStore(postgres_url) as next_leader,
    ):
        assert await paused.acquire()
        await paused.commit([add(1, "a")])  # late, but no other manager leads
        assert await next_leader.acquire()
        await next_leader.commit([assign("a")])
        for command in (end("a"), stale("a"), add(2, "b")):
            with pytest.raises(LeadershipLost):
                await paused.commit([command])
        row = await next_leader.task((RUN, "a"))
        assert row is not None
        assert (row.status, len(row.attempts)) == (TaskStatus.ASSIGNED, 1)
        assert await next_leader.last_seq() == 1


async def test_a_lost_lease_is_reported_once_even_if_it_is_free_again(
    postgres_url: str,
) -> None:
    async with (
        SqlStore(postgres_url, lease_seconds=0.0) as one,
        SqlStore(postgres_url, lease_seconds=0.0) as other,
    ):
        assert await one.acquire()
        assert await other.acquire()
        assert not await one.acquire()  # what this manager remembers is old
        assert await one.acquire()


async def test_another_manager_can_lead_as_soon_as_the_leader_has_left(postgres_url: str) -> None:
    async with SqlStore(postgres_url) as next_leader:
        async with SqlStore(postgres_url) as first:
            assert await first.acquire()
            await first.release()
            assert await next_leader.acquire()
            await next_leader.release()
            assert await first.acquire()
        assert await next_leader.acquire()


async def test_a_leader_stopped_inside_a_transaction_does_not_block_the_next_leader(
    postgres_url: str,
) -> None:
    stopped = Postgresql(postgres_url, lease_seconds=0.0, connect_timeout=5.0)
    await stopped.open()
    assert await stopped.acquire()
    connection = await stopped._write_engine.connect()
    await connection.run_sync(stopped._check_leadership)  # the transaction stays open
    async with SqlStore(postgres_url) as next_leader, asyncio.timeout(20):
        assert await next_leader.acquire()
    await connection.invalidate()
    await connection.close()
    await stopped.close()


# --- opening


async def test_stores_that_open_a_new_database_at_the_same_time_share_it(postgres_url: str) -> None:
    stores = [SqlStore(postgres_url) for _ in range(4)]
    await asyncio.gather(*[store.__aenter__() for store in stores])
    assert len({store.id for store in stores}) == 1
    for store in stores:
        await store.__aexit__(None, None, None)


async def test_a_database_of_a_newer_release_is_refused_and_not_changed(url: str) -> None:
    async with SqlStore(url):
        pass
    await execute(url, "UPDATE skillq_version SET version_num = '9999'")
    message = await refusal(url, UsageError)
    assert "newer release" in message
    assert "9999" in message


async def execute(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            file.execute(statement)
        file.close()
        return
    connection: Any = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but long enough to have had a header\n" * 100)
    assert "notes.txt is no SQLite database" in await refusal(f"sqlite:///{file}", UsageError)
    assert file.read_text().startswith("not a database")


async def test_a_python_with_an_old_sqlite_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.31.1")
    message = await refusal(f"sqlite:///{tmp_path}/skillq.db", UsageError)
    assert "is 3.31.1, and skillq needs 3.33 or newer; use another Python, or PostgreSQL" in message


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    assert "another program" in await refusal(f"sqlite:///{file}", UsageError)


@pytest.mark.parametrize("path", ["no/such/folder/skillq.db", "file/skillq.db", "folder"])
async def test_a_path_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, path: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert str(tmp_path / path) in await refusal(f"sqlite:///{tmp_path / path}", UsageError)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/d",
        "skillq.db",
        "sqlite:",
        "sqlite://x.db",
        "sqlite:///",
        "sqlite:///x?mode=ro",
        "",
    ],
)
async def test_an_invalid_store_url_is_refused(url: str) -> None:
    message = await refusal(url, UsageError)
    assert "sqlite:///FILE" in message


async def test_an_unreachable_postgresql_is_an_error_that_hides_the_password() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    message = await refusal(f"postgresql://ada:secret@127.0.0.1:{port}/d", Unreachable)
    assert message.startswith(
        f"no PostgreSQL at postgresql://ada@127.0.0.1:{port}/d, tried for 0 s: "
    )


async def test_a_wrong_password_is_an_immediate_error_that_names_the_user(
    postgres_url: str,
) -> None:
    user = urlsplit(postgres_url).username
    wrong = postgres_url.replace(f"{urlsplit(postgres_url).password}@", "wrong-one@")
    message = await refusal(wrong, Unreachable, connect_timeout=60.0)
    assert f"refuses user {user}" in message
    assert "check name and password" in message


@pytest.mark.parametrize("address", ["h:port/d", "h/d?sslmode=perhaps"])
async def test_an_invalid_postgresql_url_is_refused_without_its_password(address: str) -> None:
    message = await refusal(f"postgresql://ada:secret@{address}", UsageError, connect_timeout=60.0)
    assert message.startswith("store URL")
    assert "secret" not in message


async def test_a_missing_database_is_an_error_with_the_remedy(postgres_url: str) -> None:
    message = await refusal(f"{postgres_url}-no", Unreachable, connect_timeout=60.0)
    assert "does not exist; create it" in message


async def test_a_store_reconnects_after_the_server_closed_its_connections(
    postgres_url: str,
) -> None:
    async with SqlStore(postgres_url) as store:
        await store.acquire()
        await store.commit([add(1, "a")])
        await execute(
            postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        with pytest.raises(Unreachable):
            await store.commit([add(2, "b")])
        assert await store.acquire()
        await store.commit([add(2, "b")])
        assert await store.last_seq() == 2
