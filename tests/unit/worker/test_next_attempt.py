"""A waiting attempt starts on the handler thread when another ends, before the worker notices the end."""

import asyncio
from functools import partial

import pytest

from skillq.messages import Outcome, Progress, TaskResults
from skillq_worker.execution.executor import CancelJob, Job
from tests.support.fake_manager import (
    SHORT_LEASE,
    FakeManager,
    assignment,
    attempt_ref,
    running_worker,
    worker_profile,
)
from tests.support.virtual_time import advance
from tests.support.waiting import until_async


class StepExecutor:
    """An executor whose attempts end by `end`; the worker notices the end by `notice`."""

    types = None

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.cancelled: list[str] = []
        self._ended: list[Job] = []
        self.defers_next = False  # set: the worker starts the next attempt, as for sync handlers

    def start(self, job: Job) -> CancelJob:
        self.started.append(job)
        return partial(self._cancel, job)

    def _cancel(self, job: Job) -> bool:
        if job in self._ended:
            return False
        self.cancelled.append(job.assignment.id)
        asyncio.get_running_loop().call_soon(job.on_done, None, asyncio.CancelledError())
        return True

    def end(self, number: int) -> Job | None:
        job = self.started[number]
        self._ended.append(job)
        next_job = job.take_next()
        if next_job is not None and not self.defers_next:
            next_job.on_started(self.start(next_job))
        return next_job

    def notice(self, number: int, error: BaseException | None = None) -> None:
        self.started[number].on_done(None if error else "well", error)

    @property
    def ids(self) -> list[str]:
        return [job.assignment.id for job in self.started]


@pytest.fixture
def executor() -> StepExecutor:
    return StepExecutor()


async def test_next_attempts_start_in_order_of_arrival_and_all_are_reported(
    manager: FakeManager, executor: StepExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(*(assignment(id) for id in "abc"))
        await until_async(lambda: executor.started, "an attempt should start")
        for number in range(3):
            executor.end(number)
        assert executor.ids == ["a", "b", "c"]
        for number in range(3):
            executor.notice(number)
        await manager.receive_results(3)
    assert [(result.id, result.outcome) for result in manager.results] == [
        (id, Outcome.SUCCEEDED) for id in "abc"
    ]


async def test_the_duration_of_an_attempt_ends_at_its_end_and_not_when_the_worker_notices(
    manager: FakeManager, executor: StepExecutor
) -> None:
    """The manager assigns more attempts ahead, the shorter they are."""
    async with running_worker(manager, executor):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started, "an attempt should start")
        executor.end(0)
        await asyncio.sleep(0.05)
        executor.end(1)
        executor.notice(0)
        executor.notice(1)
        a, b = await manager.receive_results(2)
    assert a.started_at and a.finished_at and b.started_at and b.finished_at  # noqa: PT018
    assert a.started_at <= a.finished_at <= b.started_at
    assert b.finished_at - b.started_at > 0.04


async def test_an_attempt_cancelled_before_its_start_was_noticed_ends_without_a_report(
    manager: FakeManager, executor: StepExecutor
) -> None:
    async with running_worker(manager, executor) as (worker, _):
        await manager.assign(assignment("a"), assignment("b"), assignment("c"))
        await until_async(lambda: executor.started, "an attempt should start")
        executor.end(0)
        await manager.cancel(attempt_ref("b"))
        await until_async(
            lambda: ("default", "b", 1) not in worker._held_attempts, "the worker should not hold b"
        )
        assert not executor.cancelled
        executor.notice(0)
        assert executor.cancelled == ["b"]
        await until_async(lambda: executor.ids == ["a", "b", "c"], "c should start")
        await manager.receive(Progress)
        executor.end(2)
        executor.notice(2)
        await manager.receive_results(2)
    assert set(manager.outcomes) == {"a", "c"}
    assert {item.id for report in manager.received(Progress) for item in report.items} == {"c"}


async def test_an_attempt_cancelled_after_its_end_is_not_reported_and_its_slot_goes_on(
    manager: FakeManager, executor: StepExecutor
) -> None:
    async with running_worker(manager, executor) as (worker, _):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started, "an attempt should start")
        executor.end(0)
        await manager.cancel(attempt_ref("a"))
        await until_async(
            lambda: ("default", "a", 1) not in worker._held_attempts, "the worker should not hold a"
        )
        executor.notice(0)
        executor.end(1)
        executor.notice(1)
        await manager.receive_results(1)
    assert not executor.cancelled
    assert set(manager.outcomes) == {"b"}


async def test_a_failure_before_the_timeout_is_failed_even_if_noticed_late(
    manager: FakeManager, executor: StepExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(assignment("a", timeout=0.02))
        await until_async(lambda: executor.started, "an attempt should start")
        executor.end(0)
        await asyncio.sleep(0.05)
        executor.notice(0, ValueError("no such page"))
        (result,) = await manager.receive_results(1)
    assert (result.outcome, result.error) == (Outcome.FAILED, "ValueError: no such page")


async def test_the_timeout_counts_from_the_start_even_if_the_start_was_noticed_late(
    manager: FakeManager, executor: StepExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(assignment("a"), assignment("b", timeout=1000.0))
        await until_async(lambda: executor.started, "an attempt should start")
        executor.end(0)
        executor.started[1].started_at -= 999.99  # type: ignore[attr-defined]
        executor.notice(0)
        await until_async(lambda: executor.cancelled == ["b"], "b should be cancelled")
        results = await manager.receive_results(2)
    assert [result.outcome for result in results] == [Outcome.SUCCEEDED, Outcome.TIMED_OUT]


async def test_the_start_of_a_sync_handler_is_reported_as_its_real_start(
    manager: FakeManager, executor: StepExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started, "an attempt should start")
        executor.defers_next = True
        executor.end(0)
        await asyncio.sleep(0.05)
        executor.notice(0)
        await until_async(lambda: len(executor.started) == 2, "b should start")
        executor.end(1)
        executor.notice(1)
        a, b = await manager.receive_results(2)
    assert a.finished_at and b.started_at  # noqa: PT018
    assert b.started_at - a.finished_at > 0.04


async def test_an_attempt_whose_start_was_not_noticed_yet_is_not_returned(
    manager: FakeManager, executor: StepExecutor
) -> None:
    async with running_worker(manager, executor) as (worker, running):
        await manager.assign(assignment("a"), assignment("b"), assignment("c"))
        await until_async(lambda: executor.started, "an attempt should start")
        executor.end(0)
        await manager.recall(attempt_ref("b"), attempt_ref("c"))
        await manager.receive_results(1)
        worker.stop()
        await asyncio.sleep(0.01)
        executor.notice(0)
        executor.end(1)
        executor.notice(1)
        await running
    assert manager.outcomes == {
        "a": Outcome.SUCCEEDED,
        "b": Outcome.SUCCEEDED,
        "c": Outcome.RETURNED,
    }


async def test_an_unnoticed_attempt_of_an_old_store_is_cancelled_and_not_reported(
    manager: FakeManager, executor: StepExecutor
) -> None:
    """The attempt of the new store has the same number."""
    async with running_worker(manager, executor) as (worker, _):
        await manager.assign(assignment("a"), assignment("b"), store="old")
        await until_async(lambda: executor.started, "an attempt should start")
        executor.end(0)
        await manager.assign(assignment("b"), store="new")
        await until_async(
            lambda: worker._reporter.store == "new", "the worker should know the new store"
        )
        executor.notice(0)
        assert executor.cancelled == ["b"]
        await until_async(
            lambda: executor.ids == ["a", "b", "b"], "b should start for the new store"
        )
        await manager.receive(Progress)
        executor.end(2)
        executor.notice(2)
        await manager.receive_results(1)
    assert {report.store for report in manager.received(Progress)} == {"new"}
    assert [
        [result.id for result in report.results] for report in manager.received(TaskResults)
    ] == [["b"]]


async def test_a_worker_that_stops_now_cancels_attempts_whose_start_was_not_noticed_yet(
    manager: FakeManager, executor: StepExecutor
) -> None:
    async with running_worker(manager, executor) as (worker, running):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started, "an attempt should start")
        executor.end(0)
        worker.stop(now=True)
        await asyncio.sleep(0.01)
        assert not running.done()
        executor.notice(0)
        await running
    assert executor.cancelled == ["b"]
    assert not manager.results


async def test_no_next_attempt_starts_with_an_old_lease_even_while_the_worker_is_stalled(
    executor: StepExecutor,
) -> None:
    async with (
        FakeManager(worker_profile(lease=SHORT_LEASE)) as manager,
        running_worker(manager, executor),
    ):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started, "an attempt should start")
        advance(0.3)  # the worker is stalled: it reads no clock and sends no heartbeat
        assert executor.end(0) is None
        executor.notice(0)
        await until_async(lambda: executor.ids == ["a", "b"], "b should start")
        executor.end(1)
        executor.notice(1)
        await manager.receive_results(2)
