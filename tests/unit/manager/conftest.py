from collections.abc import AsyncIterator

import pytest
import structlog

from skillq import timings
from skillq.transport.memory import MemoryBroker
from tests.unit.manager.desk import Desk
from tests.unit.manager.office import Office


@pytest.fixture(autouse=True)
def _logs() -> None:
    """As at the start of a process, whatever the commands of earlier tests have configured."""
    structlog.reset_defaults()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk(MemoryBroker()).open() as desk:
        yield desk


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    office = Office()
    async with office.wire:
        await office.open()
        yield office
        await office.outbox.flush(timeout=0)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few tasks at most fit into one message."""
    monkeypatch.setattr("skillq.client.submission.TASKS_BYTES", 110)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "CLIENT_SILENCE_SECONDS", 0.1)
