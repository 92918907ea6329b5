"""Unit tests run on virtual time if they wait for nothing but timers."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.virtual_time import LOOP_FACTORIES


def pytest_asyncio_loop_factories() -> Mapping[str, Any]:
    return LOOP_FACTORIES


class _AsyncioWithShortSleeps:
    """Is the module asyncio with a short `sleep`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.002))


@pytest.fixture
def hasty_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an HTTP server stop after 2 ms: uvicorn checks every 100 ms whether it must."""
    monkeypatch.setattr("uvicorn.server.asyncio", _AsyncioWithShortSleeps())
