"""Unit tests run on virtual time wherever only timers are waited for."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.virtual_time import LOOP_FACTORIES


def pytest_asyncio_loop_factories() -> Mapping[str, Any]:
    return LOOP_FACTORIES


class _AsyncioWithShortSleeps:
    """The module asyncio, but for a sleep that is short."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.002))


@pytest.fixture
def fast_stopping_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an HTTP server see in 2 ms instead of 100 that it shall end."""
    monkeypatch.setattr("uvicorn.server.asyncio", _AsyncioWithShortSleeps())
