"""Every kind of store, for the contract that all of them keep."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from skillq_manager.store.base import Store
from skillq_manager.store.memory import MemoryStore
from skillq_manager.store.sql import SqlStore


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    if request.param == "memory":
        return MemoryStore
    if request.param == "sqlite":
        return lambda: SqlStore(f"sqlite:///{tmp_path}/skillq.db")
    url = request.getfixturevalue("postgres_url")
    return lambda: SqlStore(url)


@pytest.fixture
async def store(make: Callable[[], Store]) -> AsyncIterator[Store]:
    """An empty store, led by us."""
    async with make() as opened:
        assert await opened.acquire()
        yield opened
