"""A boss, and a bench for its worker; everything that is waited for comes quickly."""

from collections.abc import AsyncIterator

import pytest
import structlog

from skillq import timings
from tests.unit.worker.bench import Bench
from tests.unit.worker.boss import Boss, who


@pytest.fixture
async def boss() -> AsyncIterator[Boss]:
    async with Boss(who("Ada", name="ada")) as boss:
        yield boss


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "REPORT_FIRST_RETRY_SECONDS", 0.01)
    structlog.reset_defaults()  # a command that ran before may have set a level
