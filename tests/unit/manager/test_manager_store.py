"""A manager whose store fails for a while, or is another's."""

from collections.abc import Sequence

import pytest

import skillq_manager.manager as module
from skillq import client
from skillq.messages import Task, TaskStatus
from skillq_manager.core.commands import Command, EndAttempt
from skillq_manager.store.base import LeadershipLost, StoreFailed
from skillq_manager.store.memory import MemoryStore
from tests.unit.manager.plant import Plant

TASKS = [Task(id=id, difficulty=1) for id in "abc"]


class MoodyStore(MemoryStore):
    """Fails `failures` times when an attempt is to be ended: before it writes, or only after."""

    def __init__(self, failures: int, error: Exception, *, after: bool) -> None:
        super().__init__()
        self._failures = failures
        self._error = error
        self._after = after

    async def commit(self, commands: Sequence[Command]) -> None:
        fails = self._failures > 0 and any(isinstance(c, EndAttempt) for c in commands)
        if fails and not self._after:
            self._fail()
        await super().commit(commands)
        if fails:
            self._fail()

    def _fail(self) -> None:
        self._failures -= 1
        raise self._error


@pytest.mark.parametrize("after", [False, True], ids=["not written", "written"])
@pytest.mark.parametrize(
    "error", [StoreFailed("the disk is full"), LeadershipLost("another one leads")]
)
async def test_a_manager_begins_anew_from_what_the_store_has_and_every_task_counts_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, after: bool
) -> None:
    monkeypatch.setattr(module, "STAND_BY_SECONDS", 0.01)
    monkeypatch.setattr(
        client, "_SILENCE_SECONDS", 0.1
    )  # what was written may never have been said
    async with Plant(store=MoodyStore(3, error, after=after)) as plant:
        await plant.hand("Ada", slots=2)
        result = await (await plant.client()).complete("run", TASKS)
        assert result.counts == {TaskStatus.SUCCEEDED: 3}
        assert not plant.running.done()
