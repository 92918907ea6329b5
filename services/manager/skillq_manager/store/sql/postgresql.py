"""PostgreSQL: one connection that writes under a lease, others that read."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from skillq import timings
from skillq.errors import SkillqError, Unreachable, UsageError
from skillq.runtime.settings import without_password
from skillq_manager.store.base import LeadershipLost, StoreFailed
from skillq_manager.store.sql import migrate
from skillq_manager.store.sql.database import T, Work, first_line, translated

SCHEMES = ("postgresql", "postgres")
READERS = 4
_MIGRATING = 0x736B696C6C71  # names our lock among all advisory ones

# What writes goes by key, row by row. Left to choose, PostgreSQL reads whole tables as long as it thinks they
# are small, and keeps plans that it made when they were.
_PLANS = {
    "plan_cache_mode": "force_custom_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
}

# By the database's clock, which all managers share.
_TAKE = """INSERT INTO leader (id, holder, epoch, expires_at) VALUES (1, $1, 1, now_is + $2)
ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, epoch = leader.epoch + 1,
expires_at = now_is + $2 WHERE leader.expires_at < now_is RETURNING epoch"""
_RENEW = """UPDATE leader SET expires_at = now_is + $3
WHERE holder = $1 AND epoch = $2 RETURNING epoch"""
_RELEASE = "UPDATE leader SET expires_at = 0 WHERE holder = $1 AND epoch = $2 RETURNING epoch"
_FENCE = "SELECT epoch FROM leader WHERE holder = $1 AND epoch = $2 FOR SHARE"
_TAKE, _RENEW = (
    statement.replace("now_is", "extract(epoch FROM clock_timestamp())::double precision")
    for statement in (_TAKE, _RENEW)
)


class Postgresql:
    def __init__(self, url: str, *, lease_seconds: float, connect_timeout: float) -> None:
        self._url = url
        self._place = without_password(url)
        self._lease = lease_seconds
        self._patience = connect_timeout
        self._me = uuid4().hex
        self._epoch: int | None = None  # of our leadership, as far as we know
        self._going: set[asyncio.Task[Any]] = set()
        # A leader that is stopped in the middle of a transaction must not hold up its successor.
        idle = str(int(max(timings.MIN_IDLE_TRANSACTION_SECONDS, lease_seconds / 2) * 1000))
        self._writing = self._engine(
            _PLANS | {"idle_in_transaction_session_timeout": idle},
            connections=2,  # one renews the lease
        )
        # One question is its own transaction: else it takes three turns of the wire.
        self._asking = self._writing.execution_options(isolation_level="AUTOCOMMIT")
        self._reading = self._engine(
            {"default_transaction_read_only": "on"},
            connections=READERS,
            isolation_level="REPEATABLE READ",
            pool_pre_ping=True,
        )

    def _engine(self, settings: dict[str, str], connections: int, **options: object) -> AsyncEngine:
        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(
                self._url,
                timeout=max(
                    timings.MIN_CONNECT_SECONDS, min(timings.CONNECT_SECONDS, self._patience)
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

    # --- open and close

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience
        while True:
            try:
                async with self._writing.begin() as connection:
                    await connection.run_sync(self._bring_up_to_date)
            except (*_DRIVER_ERRORS, ValueError) as error:
                cause = _cause(error)
                if not isinstance(cause, _NOT_THERE):
                    raise self._refusal(cause) from error
                if loop.time() >= give_up_at:
                    raise Unreachable(
                        f"no PostgreSQL at {self._place}, tried for {self._patience:g} s: {first_line(cause)}"
                    ) from error
                await asyncio.sleep(timings.DATABASE_RETRY_SECONDS)
            else:
                return

    def _bring_up_to_date(self, connection: Connection) -> None:
        # Several managers may start at once on a new database.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock($1)", (_MIGRATING,))
        migrate.up(connection, self._place)

    def _refusal(self, cause: BaseException) -> SkillqError:
        """What waiting does not change, in our words."""
        said = first_line(cause)
        if isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):
            user = urlsplit(self._url).username or "by default"
            return Unreachable(
                f"PostgreSQL at {self._place} refuses user {user}: {said}; check name and password"
            )
        if isinstance(cause, asyncpg.InvalidCatalogNameError):
            return Unreachable(f"PostgreSQL at {self._place}: {said}; create it")
        if isinstance(cause, asyncpg.PostgresError):
            return Unreachable(f"PostgreSQL at {self._place}: {said}")
        return UsageError(f"store URL {self._place!r}: {said}")

    async def close(self) -> None:
        with suppress(SkillqError):
            await self.release()
        await _end(self._going)
        await self._reading.dispose()
        await self._writing.dispose()

    # --- work

    async def write(self, work: Work[T]) -> T:
        def fenced(connection: Connection) -> T:
            self._fence(connection)
            return work(connection)

        return await self._on(self._writing, fenced)

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        return await self._on(self._asking, work)

    async def look(self, work: Work[T]) -> T:
        return await self._on(self._reading, work)

    async def _on(self, engine: AsyncEngine, work: Work[T]) -> T:
        """Who waits for it may be cancelled; the work goes to its end all the same, as on SQLite's thread.

        The driver is never cut off in the middle of a statement, and when this returns nothing is going on.
        """
        task = asyncio.create_task(self._transact(engine, work))
        self._going.add(task)
        task.add_done_callback(self._going.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await _end([task])
            raise

    async def _transact(self, engine: AsyncEngine, work: Work[T]) -> T:
        with self._translated():
            async with engine.begin() as connection:
                return await connection.run_sync(work)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self._place):
                yield
        except _DRIVER_ERRORS as error:
            raise StoreFailed(f"the store {self._place} failed: {first_line(error)}") from error

    # --- leadership

    @property
    def epoch(self) -> int:
        return self._epoch or 0

    async def acquire(self) -> bool:
        if self._epoch is None:
            self._epoch = await self._lead(_TAKE, self._me, self._lease)
        elif not await self._lead(_RENEW, self._me, self._epoch, self._lease):
            self._epoch = None  # and what we remember is not what the store has any more
        return self._epoch is not None

    async def release(self) -> None:
        if self._epoch is not None:
            epoch, self._epoch = self._epoch, None
            await self._lead(_RELEASE, self._me, epoch)

    async def _lead(self, statement: str, *values: object) -> int | None:
        def work(connection: Connection) -> int | None:
            found: int | None = connection.exec_driver_sql(statement, values).scalar()
            return found

        return await self.read(work)

    def _fence(self, connection: Connection) -> None:
        """The row stays as it is until we have committed: nobody takes over meanwhile."""
        mine = (self._me, self._epoch)
        if self._epoch is None or connection.exec_driver_sql(_FENCE, mine).first() is None:
            self._epoch = None
            raise LeadershipLost(
                f"this manager does not lead at {self._place}; nothing was written"
            )


_DRIVER_ERRORS = (DBAPIError, NoneFree, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
_NOT_THERE = (
    OSError,  # TimeoutError, too
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ConnectionDoesNotExistError,
)


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Let them end, however often the caller is cancelled meanwhile; cut off what takes too long."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timings.DATABASE_END_SECONDS
    while tasks := [task for task in tasks if not task.done()]:
        left = give_up_at - loop.time()
        if left <= 0:
            for task in tasks:
                task.cancel()
        with suppress(asyncio.CancelledError):  # the caller says so itself, afterwards
            await asyncio.wait(tasks, timeout=left if left > 0 else timings.DATABASE_END_SECONDS)


def _cause(error: BaseException) -> BaseException:
    """What the driver said, below what SQLAlchemy made of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
