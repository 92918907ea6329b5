from collections.abc import AsyncIterator

import pytest

from skillq.transport.memory import MemoryBroker
from tests.unit.manager.desk import Desk


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk(MemoryBroker()).open() as desk:
        yield desk
