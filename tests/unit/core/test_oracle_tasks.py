"""The oracle of the state machine rejects commands."""

import pytest

from skillq.messages import (
    Task,
    TaskStatus,
)
from skillq_manager.core import commands as c
from tests.support.factories import profile
from tests.support.oracle_tasks import TasksOracle
from tests.support.oracle_workers import WorkersOracle


def test_the_oracle_rejects_an_impossible_command() -> None:
    oracle = TasksOracle(WorkersOracle())
    task = Task(id="a", difficulty=1)
    oracle.accepted["r", "a"] = task
    oracle.apply([c.AddTask(("r", "a"), 1, "r", task, 0, TaskStatus.READY, 0.0)])
    with pytest.raises(KeyError):
        oracle.apply([c.Assign(("r", "a"), "task", 1, profile(), 0.0)])
