"""The store of runs, tasks, attempts and workers: the port and its implementations."""

from skillq_manager.store.base import Store
from skillq_manager.store.memory import MemoryStore
from skillq_manager.store.url import MEMORY


def open_store(url: str, *, connect_timeout: float) -> Store:
    """Return the store of a URL: `memory://`, `sqlite:///FILE` or `postgresql://…`.

    The store is an async context manager: to enter it opens it. `connect_timeout` is in seconds.
    """
    if url == MEMORY:
        return MemoryStore()
    from skillq_manager.store.sql.store import SqlStore  # noqa: PLC0415 - the import is slow

    return SqlStore(url, connect_timeout=connect_timeout)
