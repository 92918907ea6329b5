"""Provide every kind of store and of transport for the contracts that all of them must keep."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from skillq_manager.store.base import Store
from skillq_manager.store.memory import MemoryStore
from skillq_manager.store.sql.store import SqlStore
from tests.contract.transports import (
    Connect,
    FullTransport,
    in_memory,
    inbox_topology,
    over_rabbitmq,
)


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
    """Yield an empty store that has the leadership."""
    async with make() as opened:
        assert await opened.acquire()
        yield opened


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Yield a function that opens transports to one new broker."""
    make = in_memory() if request.param == "memory" else over_rabbitmq(request)
    async with AsyncExitStack() as stack:

        async def open_transport(app_id: str = "tests") -> FullTransport:
            return await stack.enter_async_context(make(app_id))

        yield open_transport


@pytest.fixture
async def transport(connect: Connect) -> FullTransport:
    transport = await connect()
    await transport.declare(inbox_topology())
    return transport


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/skillq.db"
    found: str = request.getfixturevalue("postgres_url")
    return found
