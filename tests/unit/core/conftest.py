"""A driver of the core, and an assigned attempt."""

import pytest

from skillq_manager.core import commands as c
from tests.support.factories import (
    Driver,
    connect,
    one,
    submission,
    task,
)


@pytest.fixture
def do() -> Driver:
    return Driver()


@pytest.fixture
def held(do: Driver) -> c.Assign:
    return one(do(connect(), submission(task("a"))), c.Assign)
