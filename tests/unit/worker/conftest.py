from collections.abc import AsyncIterator

import pytest
import structlog

from skillq import timings
from tests.support.fake_executor import FakeExecutor
from tests.support.fake_manager import FakeManager, worker_profile


@pytest.fixture
async def manager() -> AsyncIterator[FakeManager]:
    async with FakeManager(worker_profile("Ada", name="ada")) as manager:
        yield manager


@pytest.fixture
def executor() -> FakeExecutor:
    """Return an executor whose attempts go on until the test ends them."""
    return FakeExecutor(hold=True)


@pytest.fixture(autouse=True)
def fast_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "REPORT_FIRST_RETRY_SECONDS", 0.01)
    structlog.reset_defaults()  # a command that ran before may have set a level
