"""What the store needs of a database: one connection of its own, and others for those who look."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from skillq_manager.store.base import StoreConflict, StoreFailed

T = TypeVar("T")
Work = Callable[[Connection], T]


class Database(Protocol):
    async def open(self) -> None:
        """Connect, and bring the tables up to date.

        Raises:
            UsageError: the address is wrong, it is not ours, in use, or of a newer release.
            Unreachable: it is not there, or does not let us in.
        """
        ...

    async def close(self) -> None: ...

    async def write(self, work: Work[T]) -> T:
        """In one transaction, as the leader.

        Raises:
            LeadershipLost, StoreConflict, StoreFailed.
        """
        ...

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        """What was written is seen, and no view is in the way. `brief`: to hand it over would take as long."""
        ...

    async def look(self, work: Work[T]) -> T:
        """All in one moment's state, beside what is written."""
        ...

    @property
    def epoch(self) -> int:
        """See `store.base.Leadership`."""
        ...

    async def acquire(self) -> bool: ...

    async def release(self) -> None: ...


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Driver errors as ours."""
    try:
        yield
    except IntegrityError as error:
        raise StoreConflict(f"{place}: {first_line(error.orig)}") from error
    except DBAPIError as error:
        raise StoreFailed(f"the store {place} failed: {first_line(error.orig)}") from error


def first_line(error: BaseException | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
