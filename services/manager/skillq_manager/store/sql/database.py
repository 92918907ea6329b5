"""The port to a database: one connection writes, other connections read for the views.

See docs/adr/0008-one-sql-layer-for-both-databases.md.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from skillq_manager.store.base import StoreConflict, StoreFailed

T = TypeVar("T")
Work = Callable[[Connection], T]


class Database(Protocol):
    """A database. `work` is a function that gets a connection and returns a result."""

    async def open(self) -> None:
        """Connect, and bring the tables up to date.

        Raises:
            UsageError: The URL is wrong, or the database is of another program, in use by another manager,
                or of a newer release.
            Unreachable: The server does not answer, or refuses the user.
        """
        ...

    async def close(self) -> None:
        """Close all connections; a leader releases its lease first."""
        ...

    async def write(self, work: Work[T]) -> T:
        """Execute work in one transaction, as the leader.

        Raises:
            LeadershipLost: This manager does not lead; nothing was written.
            StoreConflict: A precondition or a unique key is violated; nothing was written.
            StoreFailed: The database failed; the write may have happened or not.
        """
        ...

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        """Execute work that reads all earlier writes, and that does not wait for views.

        `brief` work is so short that SQLite executes it on the thread of the event loop.

        Raises:
            StoreFailed: The database failed.
        """
        ...

    async def read_snapshot(self, work: Work[T]) -> T:
        """Execute work that reads one consistent state, while other connections write.

        Raises:
            StoreFailed: The database failed.
        """
        ...

    @property
    def epoch(self) -> int:
        """Return the number of this leadership. See `skillq_manager.store.base.LeaderLease`."""
        ...

    async def acquire(self) -> bool:
        """Become or stay the leader. See `skillq_manager.store.base.LeaderLease`."""
        ...

    async def release(self) -> None:
        """End the leadership. See `skillq_manager.store.base.LeaderLease`."""
        ...


@contextmanager
def translate_database_errors(location: str) -> Iterator[None]:
    """Translate driver errors in this context; `location` names the database in the message.

    Raises:
        StoreConflict: A unique key is violated.
        StoreFailed: The database failed.
    """
    try:
        yield
    except IntegrityError as error:
        raise StoreConflict(f"{location}: {first_line(error.orig)}") from error
    except DBAPIError as error:
        raise StoreFailed(f"the store {location} failed: {first_line(error.orig)}") from error


def first_line(error: BaseException | None) -> str:
    """Return the first line of the error's text, or the name of its class if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
