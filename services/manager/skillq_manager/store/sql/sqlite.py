"""SQLite: one thread writes, and other threads read for the views.

A thread executes a unit of work as a whole: the threads change once per transaction, not once per statement.
Brief work is executed on the thread of the event loop, because two changes of threads take longer.

See docs/adr/0008-one-sql-layer-for-both-databases.md.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from skillq import timings
from skillq.errors import UsageError
from skillq_manager.store.sql import migrate
from skillq_manager.store.sql.database import T, Work, first_line, translate_database_errors

READ_THREADS = 3

_OLDEST_SQLITE = (3, 33)  # the first release with UPDATE … FROM
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit survives a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -65536",  # KiB
)


class Sqlite:
    """Implements `skillq_manager.store.sql.database.Database` on one SQLite file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = _FileLock(self._file)
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._read_threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="view")
        self._write_engine = _engine(self._file, 1)
        self._read_engine = _engine(self._file, READ_THREADS + 1)
        event.listen(self._write_engine, "connect", _prepare)
        event.listen(self._read_engine, "connect", _prepare_reader)
        self._write_connection: Connection | None = None
        self._loop_connection: Connection | None = None  # used on the thread of the event loop

    async def open(self) -> None:
        self._lock.acquire()
        try:
            await self._run_in(self._write_thread, self._open)
        except BaseException:
            await self.close()
            raise

    def _open(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise UsageError(
                f"the SQLite of this Python is {sqlite3.sqlite_version}, and skillq needs "
                f"{'.'.join(map(str, _OLDEST_SQLITE))} or newer; use another Python, or PostgreSQL"
            )
        try:
            self._write_connection = self._write_engine.connect()
            _refuse_foreign_database(self._write_connection, self._file)
            with _transaction(self._write_connection):
                migrate.up(self._write_connection, str(self._file))
        except OperationalError as error:
            raise UsageError(f"cannot use {self._file}: {first_line(error.orig)}") from error
        except DatabaseError as error:
            raise UsageError(f"{self._file} is no SQLite database; name another file") from error

    async def close(self) -> None:
        if self._loop_connection is not None:
            self._loop_connection.close()
        await self._run_in(self._read_threads, self._read_engine.dispose)
        await self._run_in(self._write_thread, self._close)
        self._read_threads.shutdown()
        self._write_thread.shutdown()
        self._lock.release()

    def _close(self) -> None:
        if self._write_connection is not None:
            self._write_connection.close()
        self._write_engine.dispose()

    async def write(self, work: Work[T]) -> T:
        def job() -> T:
            with (
                translate_database_errors(str(self._file)),
                _transaction(self._require_connection()) as connection,
            ):
                return work(connection)

        return await self._run_in(self._write_thread, job)

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        def job() -> T:
            with translate_database_errors(str(self._file)):
                return work(self._require_connection())

        if brief:
            with translate_database_errors(str(self._file)):
                return work(self._connection_of_loop())
        return await self._run_in(self._write_thread, job)

    async def read_snapshot(self, work: Work[T]) -> T:
        def job() -> T:
            with (
                translate_database_errors(str(self._file)),
                self._read_engine.connect() as connection_of_thread,
                _snapshot(connection_of_thread) as connection,
            ):
                return work(connection)

        return await self._run_in(self._read_threads, job)

    epoch = 0  # the lock of the file excludes all other managers

    async def acquire(self) -> bool:
        return True  # the lock of the file is held since `open`

    async def release(self) -> None: ...

    def _connection_of_loop(self) -> Connection:
        """Return the connection for brief work. It reads what the write connection has committed."""
        if self._loop_connection is None:
            self._loop_connection = self._read_engine.connect()
        return self._loop_connection

    def _require_connection(self) -> Connection:
        assert self._write_connection is not None, "open"  # noqa: S101 - an invariant
        return self._write_connection

    @staticmethod
    async def _run_in(threads: ThreadPoolExecutor, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, job)


def _engine(file: Path, connections: int) -> Engine:
    # In autocommit mode SQLAlchemy and the driver send no BEGIN and COMMIT of their own.
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
        with suppress(DBAPIError):  # after some errors SQLite has already rolled back
            connection.exec_driver_sql("ROLLBACK")
        raise


@contextmanager
def _snapshot(connection: Connection) -> Iterator[Connection]:
    """Open a read transaction, in which all queries read the same state."""
    connection.exec_driver_sql("BEGIN")
    try:
        yield connection
    finally:
        with suppress(DBAPIError):
            connection.exec_driver_sql("ROLLBACK")


def _refuse_foreign_database(connection: Connection, file: Path) -> None:
    if migrate.version(connection) is None and inspect(connection).get_table_names():
        raise UsageError(f"{file} is a database of another program; name another file")


class _FileLock:
    """A lock on a database file. The operating system releases the lock when the process ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, so that no other manager can open the file.

        Raises:
            UsageError: Another manager has the lock, or the folder is missing or not writable.
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
        """Release the lock, if this process has it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
