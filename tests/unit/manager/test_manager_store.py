"""A manager whose store fails for a while, or is another's."""

from collections.abc import Sequence

import pytest

from skillq import timings, topology
from skillq.messages import Task, TaskEvents, TaskStatus
from skillq.transport.memory import MemoryBroker
from skillq_manager.core.commands import Command, EndAttempt
from skillq_manager.store.base import (
    LeadershipLost,
    RunRow,
    StoreFailed,
    TaskFilter,
    TaskRow,
    WorkerRow,
)
from skillq_manager.store.memory import MemoryStore
from tests.unit.manager.desk import Desk, refused
from tests.unit.manager.ear import listening
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


class AwayStore(MemoryStore):
    """Once away, it answers no question."""

    is_away = False

    def _look(self) -> None:
        if self.is_away:
            raise StoreFailed("the store postgresql://me@db failed: connection refused")

    async def runs(self) -> list[RunRow]:
        self._look()
        return await super().runs()

    async def run(self, run: str) -> RunRow | None:
        self._look()
        return await super().run(run)

    async def tasks(self, which: TaskFilter) -> list[TaskRow]:
        self._look()
        return await super().tasks(which)

    async def workers(self) -> list[WorkerRow]:
        self._look()
        return await super().workers()


@pytest.mark.parametrize(
    "path",
    ["summary", "runs", "runs/r", "tasks", "tasks/r/1", "tasks/r/1/explain", "workers", "dead"],
)
async def test_while_the_store_is_away_questions_are_answered_with_503_and_one_line(
    path: str,
) -> None:
    store = AwayStore()
    async with Desk(MemoryBroker(), store=store).open() as desk:
        store.is_away = True
        line = refused(await desk.http.get(f"/api/{path}"), 503)
        assert line == (
            "the store postgresql://me@db failed: connection refused; ask again in a moment"
        )
        store.is_away = False


async def test_while_the_store_is_away_commands_and_submissions_are_answered_with_503() -> None:
    store = AwayStore()
    async with Desk(MemoryBroker(), store=store).open() as desk:
        store.is_away = True
        for path in ("tasks/r/1/cancel", "tasks/r/1/retry", "runs/r/cancel"):
            refused(await desk.http.post(f"/api/{path}", json={}), 503)
        refused(await desk.http.get("/metrics"), 503)
        store.is_away = False


async def test_nothing_is_told_of_what_was_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "STAND_BY_SECONDS", 0.01)
    error = StoreFailed("the disk is full")
    async with (
        Plant(store=MoodyStore(1, error, after=False)) as plant,
        listening(plant, topology.EVENTS) as ear,
    ):
        await plant.hand("Ada")
        result = await (await plant.client()).complete("run", TASKS[:1])
        assert result.counts == {TaskStatus.SUCCEEDED: 1}
        heard = [one for one in ear.heard if isinstance(one, TaskEvents)]
    told = [event.status for one in heard for event in one.events]
    assert told.count(TaskStatus.SUCCEEDED) == 1


@pytest.mark.parametrize("after", [False, True], ids=["not written", "written"])
@pytest.mark.parametrize(
    "error", [StoreFailed("the disk is full"), LeadershipLost("another one leads")]
)
async def test_a_manager_begins_anew_from_what_the_store_has_and_every_task_counts_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, after: bool
) -> None:
    monkeypatch.setattr(timings, "STAND_BY_SECONDS", 0.01)
    monkeypatch.setattr(
        timings, "CLIENT_SILENCE_SECONDS", 0.1
    )  # what was written may never have been said
    async with Plant(store=MoodyStore(3, error, after=after)) as plant:
        await plant.hand("Ada", slots=2)
        result = await (await plant.client()).complete("run", TASKS)
        assert result.counts == {TaskStatus.SUCCEEDED: 3}
        assert not plant.running.done()
