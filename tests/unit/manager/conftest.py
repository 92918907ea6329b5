from collections.abc import AsyncIterator

import pytest
import structlog

from skillq.transport.memory import MemoryBroker
from tests.unit.manager.desk import Desk


@pytest.fixture(autouse=True)
def _logs() -> None:
    """As at the start of a process, whatever the commands of earlier tests have configured."""
    structlog.reset_defaults()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk(MemoryBroker()).open() as desk:
        yield desk
