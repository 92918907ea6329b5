"""The port to what lasts (`base`), and its implementations."""

from skillq_manager.store.base import Store
from skillq_manager.store.memory import MemoryStore

MEMORY = "memory://"


def open_store(url: str, *, connect_timeout: float) -> Store:
    """The store at an address: `memory://`, `sqlite:///FILE` or `postgresql://…`; enter it to open it."""
    if url == MEMORY:
        return MemoryStore()
    from skillq_manager.store.sql.store import SqlStore  # noqa: PLC0415 - sqlalchemy takes a while

    return SqlStore(url, connect_timeout=connect_timeout)
