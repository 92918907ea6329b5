"""Fixtures: a client, an open run, and a fake manager on a memory broker."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skillq import timings
from skillq.client import Client, OpenRun
from skillq.transport.memory import MemoryBroker, MemoryTransport
from tests.support.fake_manager_of_client import FakeManagerOfClient
from tests.support.virtual_time import SkippingLoop, loop_clock


@pytest.fixture
async def manager() -> AsyncIterator[FakeManagerOfClient]:
    manager = FakeManagerOfClient(MemoryBroker())
    async with manager.transport:
        await manager.open()
        yield manager


@pytest.fixture
async def client(manager: FakeManagerOfClient) -> AsyncIterator[Client]:
    async with MemoryTransport(manager.transport._broker) as transport:
        yield Client(transport, patience=0.3, clock=loop_clock())


@pytest.fixture
async def run(manager: FakeManagerOfClient, client: Client) -> AsyncIterator[OpenRun]:
    async with asyncio.timeout(10), client.open("Nightly 1") as run:
        yield run


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client send a status query after 50 ms without an event."""
    monkeypatch.setattr(timings, "CLIENT_SILENCE_SECONDS", 0.05)


@pytest.fixture
def long_answer_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a group commit wait for an answer for a long time, once the manager has answered."""
    monkeypatch.setattr(timings, "GROUP_COMMIT_WAIT_SECONDS", 1000.0)
    monkeypatch.setattr(timings, "GROUP_COMMIT_ABSENT_SECONDS", 2000.0)


@pytest.fixture
async def clock() -> SkippingLoop:
    """The running loop, whose clock a test may move forward."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    return loop
