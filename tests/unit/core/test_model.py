"""The bookkeeper of the state machine can say no."""

import pytest

from skillq.messages import (
    Task,
    TaskStatus,
)
from skillq_manager.core import commands as c
from tests.support.factories import profile
from tests.unit.core.crew import Crew
from tests.unit.core.model import Model


def test_the_bookkeeper_does_not_believe_just_anything() -> None:
    model = Model(Crew())
    row = Task(id="a", difficulty=1)
    model.promised["r", "a"] = row
    model.apply([c.AddTask(("r", "a"), 1, "r", row, 0, TaskStatus.READY, 0.0)])
    with pytest.raises(KeyError):
        model.apply([c.Assign(("r", "a"), "task", 1, profile(), 0.0)])
