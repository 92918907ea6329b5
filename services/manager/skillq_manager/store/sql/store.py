"""The durable store, on SQLite or PostgreSQL: it writes each decision in one transaction.

See docs/adr/0008-one-sql-layer-for-both-databases.md.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from skillq import timings
from skillq.errors import UsageError
from skillq_manager.core.commands import Command, RefillRequest
from skillq_manager.core.events import BacklogPage, BacklogSummary, StoredStatus
from skillq_manager.core.model import TaskKey
from skillq_manager.store import preconditions
from skillq_manager.store.base import (
    Body,
    LiveRow,
    RunRow,
    StoreConflict,
    TaskFilter,
    TaskRow,
    WorkerRow,
)
from skillq_manager.store.sql import queries
from skillq_manager.store.sql import statements as s
from skillq_manager.store.sql.body_cache import BodyCache
from skillq_manager.store.sql.database import Database
from skillq_manager.store.sql.sqlite import Sqlite
from skillq_manager.store.sql.writes import Group, WriteBatch
from skillq_manager.store.url import parse_store_url

LOAD_PAGE = 2000  # tasks that one query loads
BRIEF_LOOKUP = 100  # so many tasks are looked up in a short time


class SqlStore:
    """Implements `skillq_manager.store.base.Store` on `sqlite:///FILE` or `postgresql://…`.

    The store waits at most `connect_timeout` seconds for PostgreSQL. `lease_seconds` is the lease of the leader.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = timings.LEADER_LEASE_SECONDS,
        connect_timeout: float = timings.START_TIMEOUT_SECONDS,
    ) -> None:
        self._database = _database(url, lease_seconds, connect_timeout)
        self._id = ""
        self._body_cache = BodyCache()

    @property
    def id(self) -> str:
        return self._id

    async def __aenter__(self) -> Self:
        """Connect to the database, and bring its tables up to date.

        Raises:
            UsageError: The URL is wrong, or the database is of another program, in use by another manager,
                or of a newer release.
            Unreachable: The server does not answer, or refuses the user.
        """
        await self._database.open()
        self._id = await self._database.read(queries.store_id)
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._database.close()

    # --- LeaderLease

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
            await self._database.write(lambda connection: _write_batch(connection, batch, groups))
            for key, task, texts in batch.cacheable:
                self._body_cache.add_bodies(key, task, texts)
            self._body_cache.pop_bodies(batch.ended_unsent)

    async def load(self, *, include_backlog: bool = True) -> AsyncIterator[list[LiveRow]]:
        for conditions in (
            (queries.ALL_LIVE,)
            if include_backlog
            else (queries.NEVER_IN_BACKLOG, queries.HELD_FROM_BACKLOG)
        ):
            after = 0
            while page := await self._database.read(
                partial(queries.live_page, after=after, limit=LOAD_PAGE, conditions=conditions)
            ):
                yield page
                after = page[-1].seq

    async def backlog_summary(self) -> BacklogSummary:
        return await self._database.read(queries.backlog_summary)

    async def backlog_page(self, request: RefillRequest) -> BacklogPage:
        return await self._database.read(
            lambda connection: queries.backlog_page(connection, request)
        )

    async def backlog_tasks(self, run: str, ids: Sequence[str] | None) -> list[LiveRow]:
        storable_ids = None if ids is None else [id for id in ids if _is_storable(id)]
        return await self._database.read(
            lambda connection: queries.backlog_tasks(connection, run, storable_ids)
        )

    async def last_seq(self) -> int:
        return await self._database.read(queries.last_seq)

    async def known_tasks(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, StoredStatus]:
        storable_keys = [key for key in keys if _is_storable(*key)]
        return await self._database.read(
            lambda connection: queries.known_tasks(connection, storable_keys),
            brief=len(storable_keys) <= BRIEF_LOOKUP,
        )

    async def bodies(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Body]:
        wanted = list(keys)
        cached = {
            key: Body.from_task(task, {})
            for key, task in self._body_cache.pop_bodies(wanted).items()
        }
        missing = [key for key in wanted if key not in cached]
        if not missing:
            return cached
        # Not brief: payloads and outputs of dependencies may be large.
        return cached | await self._database.read(
            lambda connection: queries.bodies(connection, missing)
        )

    # --- Views

    async def runs(self) -> list[RunRow]:
        return await self._database.read_snapshot(queries.all_runs)

    async def run(self, run: str) -> RunRow | None:
        if not _is_storable(run):
            return None
        return await self._database.read(
            lambda connection: queries.one_run(connection, run), brief=True
        )

    async def tasks(self, task_filter: TaskFilter) -> list[TaskRow]:
        if not _is_storable(task_filter.run, task_filter.type, task_filter.worker):
            return []
        if task_filter.ids is not None:
            task_filter = replace(
                task_filter, ids=tuple(id for id in task_filter.ids if _is_storable(id))
            )
        return await self._database.read_snapshot(
            lambda connection: queries.task_page(connection, task_filter)
        )

    async def task(self, key: TaskKey) -> TaskRow | None:
        if not _is_storable(*key):
            return None
        return await self._database.read_snapshot(lambda connection: queries.task(connection, key))

    async def workers(self) -> list[WorkerRow]:
        return await self._database.read_snapshot(queries.all_workers)


def _database(url: str, lease_seconds: float, connect_timeout: float) -> Database:
    try:
        place = parse_store_url(url)
    except UsageError as error:
        raise UsageError(f"store URL: {error}") from error
    if isinstance(place, Path):
        return Sqlite(place)
    # Only a manager on PostgreSQL needs the driver.
    from skillq_manager.store.sql.postgresql import Postgresql  # noqa: PLC0415

    return Postgresql(url, lease_seconds=lease_seconds, connect_timeout=connect_timeout)


def _is_storable(*names: str | None) -> bool:
    """Return whether PostgreSQL can store the names: a query with the character 0 fails."""
    return not any("\0" in name for name in names if name)


def _write_batch(connection: Connection, batch: WriteBatch, groups: Iterable[Group]) -> None:
    """Write the rows of a decision.

    Raises:
        StoreConflict: A task does not meet the precondition of a statement.
    """
    count_changes = _count_changes(connection, batch)
    for statement, rows in groups:
        written = statement.run(connection, rows)
        if statement.must_match and written != len(rows):
            raise StoreConflict(
                f"{len(rows) - written} of {len(rows)} tasks are not where they were thought to be; "
                f"nothing was written (first of them all: {rows[0][:2]})"
            )
    if count_changes:
        s.COUNT.run(connection, count_changes)


def _count_changes(connection: Connection, batch: WriteBatch) -> list[s.Row]:
    """Return how the stored numbers of tasks per run and status change.

    The numbers of assigned and running tasks are not stored, because they would change too often.
    """
    count_changes = batch.count_changes.copy()
    if batch.unknown_before:
        for (run, _), found in queries.known_tasks(connection, batch.unknown_before).items():
            count_changes[run, found.status] -= 1
    return [
        (run, status.value, n)
        for (run, status), n in count_changes.items()
        if n and status not in preconditions.HELD
    ]
