"""The bookkeeper of the state machine can say no."""

import pytest

from skillq.messages import (
    Task,
    TaskStatus,
)
from skillq_manager.core import commands as c
from tests.factories import profile
from tests.support.oracle_tasks import TasksOracle
from tests.support.oracle_workers import WorkersOracle


def test_the_oracle_rejects_an_impossible_command() -> None:
    model = TasksOracle(WorkersOracle())
    row = Task(id="a", difficulty=1)
    model.accepted["r", "a"] = row
    model.apply([c.AddTask(("r", "a"), 1, "r", row, 0, TaskStatus.READY, 0.0)])
    with pytest.raises(KeyError):
        model.apply([c.Assign(("r", "a"), "task", 1, profile(), 0.0)])
