"""PostgreSQL: one connection writes under the leader's lease, other connections read.

See docs/adr/0008-one-sql-layer-for-both-databases.md and docs/adr/0009-keep-leadership-in-a-row-with-an-epoch.md.
"""

import asyncio
import getpass
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from skillq import timings
from skillq.errors import SkillqError, Unreachable, UsageError
from skillq.runtime.certificates import check_certificates
from skillq.runtime.settings import is_set
from skillq.urls import POSTGRESQL, ServerUrl
from skillq_manager.store.base import LeadershipLost, StoreFailed
from skillq_manager.store.sql import migrate
from skillq_manager.store.sql.database import T, Work, first_line, translate_database_errors

READ_CONNECTIONS = 4
_MIGRATION_LOCK = 0x736B696C6C71  # the number of the advisory lock

# Statements that write find each row by its key. Without these settings PostgreSQL reads whole tables while
# it takes them for small, and keeps plans that it made for small tables.
_PLANNER_SETTINGS = {
    "plan_cache_mode": "force_custom_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
}

# The lease is measured by the clock of the database, which all managers share.
_ACQUIRE = """INSERT INTO leader (id, holder, epoch, expires_at) VALUES (1, $1, 1, now_is + $2)
ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, epoch = leader.epoch + 1,
expires_at = now_is + $2 WHERE leader.expires_at < now_is RETURNING epoch"""
_RENEW = """UPDATE leader SET expires_at = now_is + $3
WHERE holder = $1 AND epoch = $2 RETURNING epoch"""
_RELEASE = "UPDATE leader SET expires_at = 0 WHERE holder = $1 AND epoch = $2 RETURNING epoch"
_LOCK_LEADERSHIP = "SELECT epoch FROM leader WHERE holder = $1 AND epoch = $2 FOR SHARE"
_ACQUIRE, _RENEW = (
    statement.replace("now_is", "extract(epoch FROM clock_timestamp())::double precision")
    for statement in (_ACQUIRE, _RENEW)
)


class Postgresql:
    """Implements `skillq_manager.store.sql.database.Database` on a PostgreSQL server."""

    def __init__(self, url: str, *, lease_seconds: float, connect_timeout: float) -> None:
        self._url = ServerUrl.parse(url, POSTGRESQL)
        self._location = self._url.display
        self._lease_seconds = lease_seconds
        self._connect_timeout = connect_timeout
        self._options = {name: values[-1] for name, values in self._url.options.items()}
        self._check_options()
        self._holder = uuid4().hex
        self._epoch: int | None = None  # None if this manager does not lead, as far as it knows
        self._active: set[asyncio.Task[Any]] = set()
        # A leader that stalls in a transaction must not block its successor.
        idle = str(int(max(timings.MIN_IDLE_TRANSACTION_SECONDS, lease_seconds / 2) * 1000))
        self._write_engine = self._engine(
            _PLANNER_SETTINGS | {"idle_in_transaction_session_timeout": idle},
            connections=2,  # one renews the lease
        )
        # A single query needs no transaction, which would take two more round trips.
        self._autocommit_engine = self._write_engine.execution_options(isolation_level="AUTOCOMMIT")
        self._read_engine = self._engine(
            {"default_transaction_read_only": "on"},
            connections=READ_CONNECTIONS,
            isolation_level="REPEATABLE READ",
            pool_pre_ping=True,
        )

    def _engine(self, settings: dict[str, str], connections: int, **options: object) -> AsyncEngine:
        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(
                self._url.text,
                timeout=max(
                    timings.MIN_CONNECT_SECONDS,
                    min(timings.CONNECT_SECONDS, self._connect_timeout),
                ),
                command_timeout=timings.DATABASE_COMMAND_SECONDS,
                server_settings={"application_name": "skillq manager", "jit": "off"} | settings,
            )

        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=timings.DATABASE_POOL_SECONDS,
            **options,
        )

    def _check_options(self) -> None:
        """Refuse a URL for which the driver would blame the network, or fail without a reason."""
        location = f"store URL {self._location!r}"
        check_certificates(
            location,
            self._options,
            authorities=("sslrootcert", "sslcrl"),
            certificate="sslcert",
            key="sslkey",
            password=self._options.get("sslpassword", ""),
        )
        if not (self._url.user or {"user", "service"} & self._options.keys() or is_set("PGUSER")):
            try:
                getpass.getuser()  # as the driver does
            except (KeyError, OSError) as error:
                raise UsageError(
                    f"{location}: it names no user, and the user of this process has no name; "
                    f"write {POSTGRESQL.example}"
                ) from error

    # --- Open and close

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._connect_timeout
        while True:
            try:
                async with self._write_engine.begin() as connection:
                    await connection.run_sync(self._migrate)
            except (*_DRIVER_ERRORS, ValueError) as error:
                cause = _root_cause(error)
                if not isinstance(cause, _UNAVAILABLE_ERRORS):
                    raise self._explain_refusal(cause) from error
                if loop.time() >= give_up_at:
                    raise Unreachable(
                        f"no PostgreSQL at {self._location}, tried for {self._connect_timeout:g} s: {first_line(cause)}"
                    ) from error
                await asyncio.sleep(timings.DATABASE_RETRY_SECONDS)
            else:
                return

    def _migrate(self, connection: Connection) -> None:
        # Several managers may start at the same time on a new database.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock($1)", (_MIGRATION_LOCK,))
        migrate.up(connection, self._location)

    def _explain_refusal(self, cause: BaseException) -> SkillqError:
        """Return the error for a cause that does not go away by waiting."""
        message = first_line(cause)
        if isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):
            user = self._url.user or self._options.get("user") or "by default"
            return Unreachable(
                f"PostgreSQL at {self._location} refuses user {user}: {message}; check name and password"
            )
        if isinstance(cause, asyncpg.InvalidCatalogNameError):
            return Unreachable(f"PostgreSQL at {self._location}: {message}; create it")
        if isinstance(cause, asyncpg.PostgresError):
            return Unreachable(f"PostgreSQL at {self._location}: {message}")
        return UsageError(f"store URL {self._location!r}: {message}")

    async def close(self) -> None:
        with suppress(SkillqError):
            await self.release()
        await _wait_for_tasks(self._active)
        await self._read_engine.dispose()
        await self._write_engine.dispose()

    # --- Work

    async def write(self, work: Work[T]) -> T:
        def work_as_leader(connection: Connection) -> T:
            self._check_leadership(connection)
            return work(connection)

        return await self._run_on(self._write_engine, work_as_leader)

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        return await self._run_on(self._autocommit_engine, work)

    async def read_snapshot(self, work: Work[T]) -> T:
        return await self._run_on(self._read_engine, work)

    async def _run_on(self, engine: AsyncEngine, work: Work[T]) -> T:
        """Execute work to its end, even if the caller is cancelled, as on a thread of SQLite.

        So the driver is never interrupted in a statement. When this method returns, the work has ended.
        """
        task = asyncio.create_task(self._transact(engine, work))
        self._active.add(task)
        task.add_done_callback(self._active.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await _wait_for_tasks([task])
            raise

    async def _transact(self, engine: AsyncEngine, work: Work[T]) -> T:
        with self._translate_errors():
            async with engine.begin() as connection:
                return await connection.run_sync(work)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            with translate_database_errors(self._location):
                yield
        except _DRIVER_ERRORS as error:
            raise StoreFailed(f"the store {self._location} failed: {first_line(error)}") from error

    # --- Leadership

    @property
    def epoch(self) -> int:
        return self._epoch or 0

    async def acquire(self) -> bool:
        if self._epoch is None:
            self._epoch = await self._write_lease(_ACQUIRE, self._holder, self._lease_seconds)
        elif not await self._write_lease(_RENEW, self._holder, self._epoch, self._lease_seconds):
            self._epoch = None  # another manager has led since: this manager's state is outdated
        return self._epoch is not None

    async def release(self) -> None:
        if self._epoch is not None:
            epoch, self._epoch = self._epoch, None
            await self._write_lease(_RELEASE, self._holder, epoch)

    async def _write_lease(self, statement: str, *values: object) -> int | None:
        def work(connection: Connection) -> int | None:
            found: int | None = connection.exec_driver_sql(statement, values).scalar()
            return found

        return await self.read(work)

    def _check_leadership(self, connection: Connection) -> None:
        """Lock the leader's row until the commit, so that no other manager can take the lead.

        Raises:
            LeadershipLost: This manager does not lead.
        """
        leadership = (self._holder, self._epoch)
        if (
            self._epoch is None
            or connection.exec_driver_sql(_LOCK_LEADERSHIP, leadership).first() is None
        ):
            self._epoch = None
            raise LeadershipLost(
                f"this manager does not lead at {self._location}; nothing was written"
            )


_DRIVER_ERRORS = (DBAPIError, PoolTimeout, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
_UNAVAILABLE_ERRORS = (
    OSError,  # includes TimeoutError
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ConnectionDoesNotExistError,
)


async def _wait_for_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait for tasks, even if the caller is cancelled; cancel tasks that take too long."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timings.DATABASE_END_SECONDS
    while tasks := [task for task in tasks if not task.done()]:
        seconds_left = give_up_at - loop.time()
        if seconds_left <= 0:
            for task in tasks:
                task.cancel()
        with suppress(asyncio.CancelledError):  # the caller raises CancelledError afterwards
            await asyncio.wait(
                tasks, timeout=seconds_left if seconds_left > 0 else timings.DATABASE_END_SECONDS
            )


def _root_cause(error: BaseException) -> BaseException:
    """Return the driver's exception, from which SQLAlchemy made its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
