"""A manager whose store fails for a while, or which has lost the leadership."""

from collections.abc import Sequence

import pytest

from skillq import timings, topology
from skillq.messages import Task, TaskEvents, TaskStatus
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
from tests.support.event_listener import listen
from tests.support.manager_harness import ApiHarness, ManagerHarness, error_line

TASKS = [Task(id=id, difficulty=1) for id in "abc"]


class FailingStore(MemoryStore):
    """A store that fails `failures` times when an attempt ends: before or after it writes."""

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


class UnreachableStore(MemoryStore):
    """A store that fails every read while `is_away` is set."""

    is_away = False

    def _check(self) -> None:
        if self.is_away:
            raise StoreFailed("the store postgresql://me@db failed: connection refused")

    async def runs(self) -> list[RunRow]:
        self._check()
        return await super().runs()

    async def run(self, run: str) -> RunRow | None:
        self._check()
        return await super().run(run)

    async def tasks(self, filter: TaskFilter) -> list[TaskRow]:
        self._check()
        return await super().tasks(filter)

    async def workers(self) -> list[WorkerRow]:
        self._check()
        return await super().workers()


@pytest.mark.parametrize(
    "path",
    ["summary", "runs", "runs/r", "tasks", "tasks/r/1", "tasks/r/1/explain", "workers", "dead"],
)
async def test_reads_during_a_store_failure_are_answered_with_503_and_one_line(
    path: str,
) -> None:
    store = UnreachableStore()
    async with ApiHarness(store=store) as api:
        store.is_away = True
        line = error_line(await api.http.get(f"/api/{path}"), 503)
        assert line == (
            "the store postgresql://me@db failed: connection refused; ask again in a moment"
        )
        store.is_away = False


async def test_actions_during_a_store_failure_are_answered_with_503() -> None:
    store = UnreachableStore()
    async with ApiHarness(store=store) as api:
        store.is_away = True
        for path in ("tasks/r/1/cancel", "tasks/r/1/retry", "runs/r/cancel"):
            error_line(await api.http.post(f"/api/{path}", json={}), 503)
        error_line(await api.http.get("/metrics"), 503)
        store.is_away = False


async def test_no_event_is_published_for_a_decision_that_was_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "STAND_BY_SECONDS", 0.01)
    error = StoreFailed("the disk is full")
    async with (
        ManagerHarness(store=FailingStore(1, error, after=False)) as harness,
        listen(harness, topology.EVENTS) as listener,
    ):
        await harness.connect_worker("Ada")
        result = await (await harness.client()).complete("run", TASKS[:1])
        assert result.counts == {TaskStatus.SUCCEEDED: 1}
        received = [message for message in listener.messages if isinstance(message, TaskEvents)]
    statuses = [event.status for message in received for event in message.events]
    assert statuses.count(TaskStatus.SUCCEEDED) == 1


@pytest.mark.parametrize("after", [False, True], ids=["not written", "written"])
@pytest.mark.parametrize(
    "error", [StoreFailed("the disk is full"), LeadershipLost("another one leads")]
)
async def test_a_manager_restores_from_the_store_after_a_failure_and_counts_every_task_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, after: bool
) -> None:
    monkeypatch.setattr(timings, "STAND_BY_SECONDS", 0.01)
    # The client must ask, because events of the written decision may never be published.
    monkeypatch.setattr(timings, "CLIENT_SILENCE_SECONDS", 0.1)
    async with ManagerHarness(store=FailingStore(3, error, after=after)) as harness:
        await harness.connect_worker("Ada", slots=2)
        result = await (await harness.client()).complete("run", TASKS)
        assert result.counts == {TaskStatus.SUCCEEDED: 3}
        assert not harness.running.done()
