from collections.abc import AsyncIterator

import pytest
import structlog

from skillq import timings
from tests.support.manager_harness import ApiHarness
from tests.support.outbox_harness import OutboxHarness


@pytest.fixture(autouse=True)
def _default_logs() -> None:
    """Reset what commands of earlier tests have configured."""
    structlog.reset_defaults()


@pytest.fixture
async def api() -> AsyncIterator[ApiHarness]:
    async with ApiHarness() as api:
        yield api


@pytest.fixture
async def harness() -> AsyncIterator[OutboxHarness]:
    harness = OutboxHarness()
    async with harness.transport:
        await harness.open()
        yield harness
        await harness.outbox.flush(timeout=0)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a message of a submission hold a few tasks at most."""
    monkeypatch.setattr("skillq.client.submission.TASKS_BYTES", 110)


@pytest.fixture
def frequent_status_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "CLIENT_SILENCE_SECONDS", 0.1)
