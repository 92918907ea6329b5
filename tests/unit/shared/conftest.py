"""A client and what it sees of a manager."""

from collections.abc import AsyncIterator

import pytest

from skillq.client import Client
from skillq.transport.memory import MemoryBroker, MemoryTransport
from tests.unit.shared.desk import Desk


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk(MemoryBroker())
    async with desk.transport:
        await desk.open()
        yield desk


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[Client]:
    async with MemoryTransport(desk.transport._broker) as transport:
        yield Client(transport, patience=0.3)
