"""The store that lasts, on SQLite or PostgreSQL: one transaction for all that one turn of the core decided."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from skillq import timings
from skillq.errors import UsageError
from skillq.runtime.settings import without_password
from skillq_manager.core.commands import Command, RefillRequest
from skillq_manager.core.events import BacklogPage, BacklogSummary, StoredStatus
from skillq_manager.core.model import TaskKey
from skillq_manager.store import preconditions
from skillq_manager.store.base import (
    Body,
    Filter,
    LiveRow,
    RunRow,
    StoreConflict,
    TaskRow,
    WorkerRow,
)
from skillq_manager.store.sql import queries
from skillq_manager.store.sql import statements as s
from skillq_manager.store.sql.body_cache import BodyCache
from skillq_manager.store.sql.database import Database
from skillq_manager.store.sql.sqlite import Sqlite
from skillq_manager.store.sql.writes import Group, WriteBatch

PAGE = 2000  # tasks that are loaded at a time
FEW = 100  # tasks that are soon looked up


class SqlStore:
    """`sqlite:///FILE` or `postgresql://…`; waits for PostgreSQL for `connect_timeout` seconds."""

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = timings.LEADER_LEASE_SECONDS,
        connect_timeout: float = timings.START_TIMEOUT_SECONDS,
    ) -> None:
        self._database = _database(url, lease_seconds, connect_timeout)
        self._id = ""
        self._fresh = BodyCache()

    @property
    def id(self) -> str:
        return self._id

    async def __aenter__(self) -> Self:
        """Open.

        Raises:
            UsageError: the address is wrong, or what is there is not ours, in use, or of a newer release.
            Unreachable: the server is not there, or does not let us in.
        """
        await self._database.open()
        self._id = await self._database.read(queries.store_id)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._database.close()

    # --- Leadership

    async def acquire(self) -> bool:
        return await self._database.acquire()

    @property
    def epoch(self) -> int:
        return self._database.epoch

    async def release(self) -> None:
        await self._database.release()

    # --- Journal

    async def commit(self, commands: Sequence[Command]) -> None:
        batch = WriteBatch(commands)
        groups = [group for group in batch.groups() if group[1]]
        if groups:
            await self._database.write(lambda connection: _write(connection, batch, groups))
            for key, task, texts in batch.fresh:
                self._fresh.add_bodies(key, task, texts)
            self._fresh.pop_bodies(batch.ended_unsent)

    async def load(self, *, shelved: bool = True) -> AsyncIterator[list[LiveRow]]:
        for which in (queries.ALL,) if shelved else (queries.ELSEWHERE, queries.TAKEN):
            after = 0
            while page := await self._database.read(
                partial(queries.live_page, after=after, limit=PAGE, which=which)
            ):
                yield page
                after = page[-1].seq

    async def backlog_summary(self) -> BacklogSummary:
        return await self._database.read(queries.shelf)

    async def backlog_page(self, wanted: RefillRequest) -> BacklogPage:
        return await self._database.read(lambda connection: queries.refilled(connection, wanted))

    async def backlog_tasks(self, run: str, ids: Sequence[str] | None) -> list[LiveRow]:
        named = None if ids is None else [id for id in ids if _can_be_there(id)]
        return await self._database.read(
            lambda connection: queries.on_shelf(connection, run, named)
        )

    async def last_seq(self) -> int:
        return await self._database.read(queries.last_seq)

    async def known_tasks(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, StoredStatus]:
        sound = [key for key in keys if _can_be_there(*key)]
        return await self._database.read(
            lambda connection: queries.known(connection, sound), brief=len(sound) <= FEW
        )

    async def bodies(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Body]:
        wanted = list(keys)
        there = {
            key: Body.from_task(task, {}) for key, task in self._fresh.pop_bodies(wanted).items()
        }
        missing = [key for key in wanted if key not in there]
        if not missing:
            return there
        # Payloads, and outputs of what they depend on: they may be large.
        return there | await self._database.read(
            lambda connection: queries.bodies(connection, missing)
        )

    # --- Views

    async def runs(self) -> list[RunRow]:
        return await self._database.look(queries.all_runs)

    async def run(self, run: str) -> RunRow | None:
        if not _can_be_there(run):
            return None
        return await self._database.read(
            lambda connection: queries.one_run(connection, run), brief=True
        )

    async def tasks(self, which: Filter) -> list[TaskRow]:
        if not _can_be_there(which.run, which.type, which.worker):
            return []
        if which.ids is not None:
            which = replace(which, ids=tuple(id for id in which.ids if _can_be_there(id)))
        return await self._database.look(lambda connection: queries.task_page(connection, which))

    async def task(self, key: TaskKey) -> TaskRow | None:
        if not _can_be_there(*key):
            return None
        return await self._database.look(lambda connection: queries.task(connection, key))

    async def workers(self) -> list[WorkerRow]:
        return await self._database.look(queries.all_workers)


def _database(url: str, lease_seconds: float, connect_timeout: float) -> Database:
    scheme, _, _ = url.partition(":")
    if scheme == "sqlite":
        return Sqlite(url)
    if scheme in {"postgresql", "postgres"}:
        # Not every manager needs its driver.
        from skillq_manager.store.sql.postgresql import Postgresql  # noqa: PLC0415

        return Postgresql(url, lease_seconds=lease_seconds, connect_timeout=connect_timeout)
    raise UsageError(
        f"store URL {without_password(url)!r}: should be memory://, sqlite:///FILE "
        "or postgresql://user:password@host:5432/database"
    )


def _can_be_there(*names: str | None) -> bool:
    """PostgreSQL fails when it is asked for what it cannot keep."""
    return not any("\0" in name for name in names if name)


def _write(connection: Connection, batch: WriteBatch, groups: Iterable[Group]) -> None:
    counts = _changes(connection, batch)
    for statement, rows in groups:
        written = statement.run(connection, rows)
        if statement.fenced and written != len(rows):
            raise StoreConflict(
                f"{len(rows) - written} of {len(rows)} tasks are not where they were thought to be; "
                f"nothing was written (first of them all: {rows[0][:2]})"
            )
    if counts:
        s.COUNT.run(connection, counts)


def _changes(connection: Connection, batch: WriteBatch) -> list[s.Row]:
    """How the numbers of tasks per run and status change; assigned and running ones are not kept."""
    counts = batch.counts.copy()
    if batch.unknown:
        for (run, _), there in queries.known(connection, batch.unknown).items():
            counts[run, there.status] -= 1
    return [
        (run, status.value, n)
        for (run, status), n in counts.items()
        if n and status not in preconditions.HELD
    ]
