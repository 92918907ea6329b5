"""Unit tests that wait only for timers run on virtual time."""

from collections.abc import Mapping
from typing import Any

from tests.support.virtual_time import LOOP_FACTORIES


def pytest_asyncio_loop_factories() -> Mapping[str, Any]:
    return LOOP_FACTORIES
