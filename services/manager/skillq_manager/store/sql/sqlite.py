"""SQLite: a thread that writes, and some that read beside it.

A unit of work goes to its thread as a whole: one change of threads per transaction, not one per statement. A brief
question is asked on the loop's own thread: to change threads twice takes longer.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from skillq import timings
from skillq.errors import UsageError
from skillq_manager.store.sql import migrate
from skillq_manager.store.sql.database import T, Work, first_line, translated

PREFIX = "sqlite:///"
READERS = 3

_OLDEST = (3, 33)  # that knows UPDATE … FROM
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # what was committed outlives a power cut, too
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -65536",  # KiB
)


class Sqlite:
    def __init__(self, url: str) -> None:
        name = unquote(url.removeprefix(PREFIX))
        if not url.startswith(PREFIX) or not name or "?" in url:
            raise UsageError(
                f"store URL {url!r}: write sqlite:///FILE, with four / for a full path, and no options"
            )
        self._file = Path(name).resolve()
        self._lock = _FileLock(self._file)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="view")
        self._writing = _engine(self._file, 1)
        self._reading = _engine(self._file, READERS + 1)
        event.listen(self._writing, "connect", _prepare)
        event.listen(self._reading, "connect", _prepare_reader)
        self._connection: Connection | None = None
        self._beside: Connection | None = None  # for the loop's thread

    async def open(self) -> None:
        self._lock.acquire()
        try:
            await self._on(self._writer, self._open)
        except BaseException:
            await self.close()
            raise

    def _open(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise UsageError(
                f"the SQLite of this Python is {sqlite3.sqlite_version}, and skillq needs "
                f"{'.'.join(map(str, _OLDEST))} or newer; use another Python, or PostgreSQL"
            )
        try:
            self._connection = self._writing.connect()
            _check_ours(self._connection, self._file)
            with _transaction(self._connection):
                migrate.up(self._connection, str(self._file))
        except OperationalError as error:
            raise UsageError(f"cannot use {self._file}: {first_line(error.orig)}") from error
        except DatabaseError as error:
            raise UsageError(f"{self._file} is no SQLite database; name another file") from error

    async def close(self) -> None:
        if self._beside is not None:
            self._beside.close()
        await self._on(self._readers, self._reading.dispose)
        await self._on(self._writer, self._close)
        self._readers.shutdown()
        self._writer.shutdown()
        self._lock.release()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._writing.dispose()

    async def write(self, work: Work[T]) -> T:
        def job() -> T:
            with translated(str(self._file)), _transaction(self._own()) as connection:
                return work(connection)

        return await self._on(self._writer, job)

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        def job() -> T:
            with translated(str(self._file)):
                return work(self._own())

        if brief:
            with translated(str(self._file)):
                return work(self._here())
        return await self._on(self._writer, job)

    async def look(self, work: Work[T]) -> T:
        def job() -> T:
            with (
                translated(str(self._file)),
                self._reading.connect() as own,
                _glance(own) as connection,
            ):
                return work(connection)

        return await self._on(self._readers, job)

    epoch = 0  # the file's lock keeps others out

    async def acquire(self) -> bool:
        return True  # whoever has the file open, by its lock

    async def release(self) -> None: ...

    def _here(self) -> Connection:
        """What others write is seen when it is committed; nothing that takes long is asked here."""
        if self._beside is None:
            self._beside = self._reading.connect()
        return self._beside

    def _own(self) -> Connection:
        assert self._connection is not None, "open"  # noqa: S101 - an invariant
        return self._connection

    @staticmethod
    async def _on(threads: ThreadPoolExecutor, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, job)


def _engine(file: Path, connections: int) -> Engine:
    # Autocommit: SQLAlchemy and Python's driver leave BEGIN and COMMIT to us.
    return create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(
            file, timeout=timings.SQLITE_BUSY_SECONDS, check_same_thread=False, isolation_level=None
        ),
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
    )


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _prepare_reader(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")


@contextmanager
def _transaction(connection: Connection) -> Iterator[Connection]:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with suppress(DBAPIError):  # SQLite itself rolls back after some errors
            connection.exec_driver_sql("ROLLBACK")
        raise


@contextmanager
def _glance(connection: Connection) -> Iterator[Connection]:
    """All that is read is of one moment."""
    connection.exec_driver_sql("BEGIN")
    try:
        yield connection
    finally:
        with suppress(DBAPIError):
            connection.exec_driver_sql("ROLLBACK")


def _check_ours(connection: Connection, file: Path) -> None:
    if migrate.version(connection) is None and inspect(connection).get_table_names():
        raise UsageError(f"{file} is a database of another program; name another file")


class _FileLock:
    """Held as long as this process has the file open; the system drops it with the process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Become the only manager of this file.

        Raises:
            UsageError: another one is, or the folder is not there or cannot be written.
        """
        try:
            descriptor = os.open(f"{self._file}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"cannot write {self._file}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise UsageError(
                f"another manager (pid {holder}) uses {self._file}; stop it, or name another file"
            ) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
