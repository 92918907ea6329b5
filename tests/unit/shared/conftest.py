"""A client and what it sees of a manager."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skillq import timings
from skillq.client import Client, OpenRun
from skillq.transport.memory import MemoryBroker, MemoryTransport
from tests.support.virtual_time import SkippingLoop, loop_clock
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
        yield Client(transport, patience=0.3, clock=loop_clock())


@pytest.fixture
async def run(desk: Desk, client: Client) -> AsyncIterator[OpenRun]:
    async with asyncio.timeout(10), client.open("Nightly 1") as run:
        yield run


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "CLIENT_SILENCE_SECONDS", 0.05)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is waited for until it is there, once one has been heard."""
    monkeypatch.setattr(timings, "GROUP_COMMIT_WAIT_SECONDS", 1000.0)
    monkeypatch.setattr(timings, "GROUP_COMMIT_ABSENT_SECONDS", 2000.0)


@pytest.fixture
async def clock() -> SkippingLoop:
    """The loop, whose clock may be moved forward."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    return loop
