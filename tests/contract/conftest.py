"""Every kind of store and of transport, for the contracts that all of them keep."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from skillq_manager.store.base import Store
from skillq_manager.store.memory import MemoryStore
from skillq_manager.store.sql.store import SqlStore
from tests.contract.transports import Join, Whole, in_memory, inbox, over_rabbitmq


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


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
async def join(request: pytest.FixtureRequest) -> AsyncIterator[Join]:
    """Open any number of transports to one fresh broker."""
    make = in_memory() if request.param == "memory" else over_rabbitmq(request)
    async with AsyncExitStack() as stack:

        async def enter(app_id: str = "tests") -> Whole:
            return await stack.enter_async_context(make(app_id))

        yield enter


@pytest.fixture
async def transport(join: Join) -> Whole:
    transport = await join()
    await transport.declare(inbox())
    return transport


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/skillq.db"
    found: str = request.getfixturevalue("postgres_url")
    return found
