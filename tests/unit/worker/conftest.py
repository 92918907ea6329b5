"""A boss, and a bench for its worker; everything that is waited for comes quickly."""

from collections.abc import AsyncIterator

import pytest

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
    monkeypatch.setattr("skillq_worker.reporter._FIRST_DELAY", 0.01)
