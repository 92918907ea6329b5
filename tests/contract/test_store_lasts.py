"""What the stores on SQLite and PostgreSQL promise beyond the contract: they last, one manager writes, errors are clear."""

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
from tests.contract import committing
from tests.contract.store_story import (
    RUN,
    SUCCEEDED,
    World,
    add,
    assign,
    end,
    everything,
    stale,
)

READY = TaskStatus.READY


async def refusal(url: str, kind: type[SkillqError], **options: Any) -> str:
    """The one line with which a store does not open."""
    with pytest.raises(kind) as caught:
        async with SqlStore(url, **({"connect_timeout": 0.0} | options)):
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert not urlsplit(url).password or str(urlsplit(url).password) not in message
    return message


# --- it lasts


async def test_all_is_as_it_was_after_opening_again(url: str) -> None:
    world = World(3)
    async with SqlStore(url) as store:
        await store.acquire()
        for _ in range(60):
            await store.commit(world.turn())
        before, name = await everything(store, world.keys), store.id
    async with SqlStore(url) as store:
        assert store.id == name
        assert await everything(store, world.keys) == before


@pytest.mark.timeout(120)
async def test_what_a_killed_process_had_committed_is_there_and_whole(url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        committing.__name__,
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
            ids = [f"{n}-{i}" for i in range(committing.SIZE)]
            rows = [await store.task((RUN, id)) for id in ids]
            assert {(row.status, str(row.output)) for row in rows if row} == {(SUCCEEDED, f"[{n}]")}
            assert None not in rows
        found = await store.run(RUN)
        assert found is not None
        last = {status: n for status, n in found.counts.items() if status is not SUCCEEDED}
        assert all(n == committing.SIZE for n in last.values())  # a whole commit, or none of it
        assert sum(found.counts.values()) % committing.SIZE == 0


async def test_a_full_disk_is_said_and_leaves_no_half_of_a_turn(tmp_path: Path) -> None:
    def limit(pages: int) -> Work[object]:
        return lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    async with SqlStore(f"sqlite:///{tmp_path}/skillq.db") as store:
        await store.commit([add(1, "a")])
        await store._database.read(limit(1))  # no more than there are
        much = [add(n, f"t{n}", payload={"x": "x" * 1000}) for n in range(2, 500)]
        with pytest.raises(Unreachable, match="full"):
            await store.commit([assign("a"), *much])
        assert await store.last_seq() == 1
        await store._database.read(limit(2**30))
        await store.commit([assign("a"), *much])
        assert await store.last_seq() == 499


async def test_looking_goes_on_while_a_long_commit_does(tmp_path: Path) -> None:
    async with SqlStore(f"sqlite:///{tmp_path}/skillq.db") as store:
        await store.commit([add(1, "a")])
        many = [add(n, f"t{n}") for n in range(2, 40_000)]
        writing = asyncio.create_task(store.commit(many))
        seen = [len(await store.tasks(TaskFilter()))]
        while not writing.done():
            seen.append(len(await store.tasks(TaskFilter())))
        await writing
        assert set(seen) <= {1, 100}  # before or after, never between
        assert len(seen) > 3


# --- one writes


async def test_a_second_manager_on_one_file_is_told_who_the_first_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/skillq.db"
    async with SqlStore(url):
        told = await refusal(url, UsageError)
        assert f"another manager (pid {os.getpid()})" in told
    async with SqlStore(url):  # free again
        pass


async def test_the_first_to_come_leads_and_the_others_read(postgres_url: str) -> None:
    async with SqlStore(postgres_url) as one, SqlStore(postgres_url) as other:
        assert one.id == other.id
        assert await one.acquire()
        assert not await other.acquire()
        assert await one.acquire()  # stays it
        await one.commit([add(1, "a")])
        assert await other.known_tasks([(RUN, "a")])
        assert [row.task.id for row in await other.tasks(TaskFilter())] == ["a"]
        with pytest.raises(LeadershipLost):
            await other.commit([add(2, "b")])
        assert await other.last_seq() == 1


async def test_nobody_writes_without_having_led(postgres_url: str) -> None:
    async with SqlStore(postgres_url) as store:
        with pytest.raises(LeadershipLost):
            await store.commit([add(1, "a")])


async def test_a_leader_that_wakes_up_after_its_lease_can_write_nothing(postgres_url: str) -> None:
    async with (
        SqlStore(postgres_url, lease_seconds=0.0) as paused,
        SqlStore(postgres_url) as heir,
    ):
        assert await paused.acquire()
        await paused.commit([add(1, "a")])  # late, but nobody has taken over
        assert await heir.acquire()
        await heir.commit([assign("a")])
        for command in (end("a"), stale("a"), add(2, "b")):
            with pytest.raises(LeadershipLost):
                await paused.commit([command])
        row = await heir.task((RUN, "a"))
        assert row is not None
        assert (row.status, len(row.attempts)) == (TaskStatus.ASSIGNED, 1)
        assert await heir.last_seq() == 1


async def test_who_has_lost_the_lease_hears_it_once_even_if_it_is_free_again(
    postgres_url: str,
) -> None:
    async with (
        SqlStore(postgres_url, lease_seconds=0.0) as one,
        SqlStore(postgres_url, lease_seconds=0.0) as other,
    ):
        assert await one.acquire()
        assert await other.acquire()
        assert not await one.acquire()  # what it remembers is old
        assert await one.acquire()


async def test_a_leader_that_leaves_is_followed_at_once(postgres_url: str) -> None:
    async with SqlStore(postgres_url) as heir:
        async with SqlStore(postgres_url) as first:
            assert await first.acquire()
            await first.release()
            assert await heir.acquire()
            await heir.release()
            assert await first.acquire()
        assert await heir.acquire()


async def test_a_leader_stopped_inside_a_transaction_does_not_hold_up_its_heir(
    postgres_url: str,
) -> None:
    stopped = Postgresql(postgres_url, lease_seconds=0.0, connect_timeout=5.0)
    await stopped.open()
    assert await stopped.acquire()
    connection = await stopped._write_engine.connect()
    await connection.run_sync(stopped._check_leadership)  # and goes no further
    async with SqlStore(postgres_url) as heir, asyncio.timeout(20):
        assert await heir.acquire()
    await connection.invalidate()
    await connection.close()
    await stopped.close()


# --- it opens, or says why not


async def test_two_that_open_a_new_database_at_once_share_it(postgres_url: str) -> None:
    stores = [SqlStore(postgres_url) for _ in range(4)]
    await asyncio.gather(*[store.__aenter__() for store in stores])
    assert len({store.id for store in stores}) == 1
    for store in stores:
        await store.__aexit__(None, None, None)


async def test_a_database_of_a_newer_release_is_left_alone(url: str) -> None:
    async with SqlStore(url):
        pass
    await execute(url, "UPDATE skillq_version SET version_num = '9999'")
    told = await refusal(url, UsageError)
    assert "newer release" in told
    assert "9999" in told


async def execute(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            file.execute(statement)
        file.close()
        return
    connection: Any = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but long enough to have had a header\n" * 100)
    assert "notes.txt is no SQLite database" in await refusal(f"sqlite:///{file}", UsageError)
    assert file.read_text().startswith("not a database")


async def test_a_python_whose_sqlite_is_too_old_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.31.1")
    said = await refusal(f"sqlite:///{tmp_path}/skillq.db", UsageError)
    assert "is 3.31.1, and skillq needs 3.33 or newer; use another Python, or PostgreSQL" in said


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    assert "another program" in await refusal(f"sqlite:///{file}", UsageError)


@pytest.mark.parametrize("path", ["no/such/folder/skillq.db", "file/skillq.db", "folder"])
async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, path: str) -> None:
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
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    told = await refusal(url, UsageError)
    assert "sqlite:///FILE" in told


async def test_a_postgresql_that_is_not_there_is_named_without_the_password() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = await refusal(f"postgresql://ada:secret@127.0.0.1:{port}/d", Unreachable)
    assert told.startswith(f"no PostgreSQL at postgresql://ada@127.0.0.1:{port}/d, tried for 0 s: ")


async def test_a_wrong_password_is_said_at_once_and_of_whom(postgres_url: str) -> None:
    user = urlsplit(postgres_url).username
    wrong = postgres_url.replace(f"{urlsplit(postgres_url).password}@", "wrong-one@")
    told = await refusal(wrong, Unreachable, connect_timeout=60.0)
    assert f"refuses user {user}" in told
    assert "check name and password" in told


@pytest.mark.parametrize("address", ["h:port/d", "h/d?sslmode=perhaps"])
async def test_a_postgresql_address_that_is_wrong_is_named(address: str) -> None:
    told = await refusal(f"postgresql://ada:secret@{address}", UsageError, connect_timeout=60.0)
    assert "postgresql://ada@" in told


async def test_a_database_that_is_not_there_is_named(postgres_url: str) -> None:
    told = await refusal(f"{postgres_url}-no", Unreachable, connect_timeout=60.0)
    assert "does not exist; create it" in told


async def test_a_server_that_goes_away_is_unreachable_and_found_again(postgres_url: str) -> None:
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
