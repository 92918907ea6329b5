"""Attempts that wait for a slot: they start in order, are returned when recalled, and cost little."""

import asyncio

import pytest

from skillq import timings
from skillq.messages import Disconnect, Heartbeat, Outcome, Progress
from skillq_worker import worker
from tests.support.fake_executor import FakeExecutor
from tests.support.fake_manager import (
    SHORT_LEASE,
    FakeManager,
    assignment,
    attempt_ref,
    running_worker,
    worker_profile,
)
from tests.support.fault_injecting_transport import FaultInjectingTransport
from tests.support.waiting import until_async


async def test_waiting_attempts_start_in_order_of_arrival(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    ids = [f"t{n}" for n in range(20)]
    async with running_worker(manager, executor):
        await manager.assign(*(assignment(id) for id in ids[:5]))
        for id in ids[5:]:
            await manager.assign(assignment(id))
        executor.end_all()
        await manager.receive_results(20)
    assert executor.started == [(id, 1) for id in ids]
    assert executor.most_running == 1


async def test_a_thousand_waiting_attempts_do_not_need_a_thousand_asyncio_tasks(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor):
        before = len(asyncio.all_tasks())
        await manager.assign(*(assignment(f"t{n}") for n in range(1000)))
        await until_async(lambda: executor.started, "an attempt should start")
        heartbeat = (await manager.receive(Heartbeat, len(manager.received(Heartbeat)) + 2))[-1]
        assert len(asyncio.all_tasks()) < before + 10
        assert len(heartbeat.holds) == 1000
        assert heartbeat.free_slots == 0
        executor.end_all()
        await manager.receive_results(1000)
    assert len(executor.started) == 1000


async def test_a_recalled_attempt_is_returned_unless_it_has_started(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor) as (worker, _):
        await manager.assign(*(assignment(id) for id in "abc"))
        await until_async(lambda: executor.started, "an attempt should start")
        await manager.recall(attempt_ref("a"), attempt_ref("c"))
        (returned,) = await manager.receive_results(1)
        assert (returned.id, returned.outcome) == ("c", Outcome.RETURNED)
        assert not worker.is_draining
        await manager.assign(assignment("d"))
        executor.end_all()
        await manager.receive_results(4)
    assert executor.started == [("a", 1), ("b", 1), ("d", 1)]
    assert not executor.cancelled
    assert {id: outcome.value for id, outcome in manager.outcomes.items()} == {
        "a": "succeeded", "b": "succeeded", "c": "returned", "d": "succeeded",
    }  # fmt: skip


async def test_a_returned_attempt_that_is_assigned_again_is_returned_again(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    """The manager has not received the report, and sends the same attempt again."""
    async with running_worker(manager, executor):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started, "an attempt should start")
        await manager.recall(attempt_ref("b"))
        await manager.receive_results(1)
        await manager.assign(assignment("b"))
        await manager.assign(assignment("b", attempt=2))
        await manager.receive_results(2)
        executor.end_all()
        await manager.receive_results(4)
    assert [(r.id, r.attempt, r.outcome) for r in manager.results[:2]] == [
        ("b", 1, Outcome.RETURNED)
    ] * 2
    assert executor.started == [("a", 1), ("b", 2)]


async def test_a_recall_for_another_incarnation_store_or_attempt_is_ignored(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(assignment("a"), assignment("b"))
        await manager.recall(attempt_ref("b"), incarnation="before")
        await manager.recall(attempt_ref("b"), store="old")
        await manager.recall(attempt_ref("b", attempt=2), attempt_ref("nobody-knows"))
        executor.end_all()
        await manager.receive_results(2)
    assert set(manager.outcomes.values()) == {Outcome.SUCCEEDED}


async def test_a_waiting_attempt_that_is_cancelled_never_starts(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(*(assignment(id) for id in "abc"))
        await until_async(lambda: executor.started, "an attempt should start")
        await manager.cancel(attempt_ref("b"))
        executor.end_all()
        await manager.receive_results(2)
    assert executor.started == [("a", 1), ("c", 1)]
    assert set(manager.outcomes) == {"a", "c"}


async def test_slots_of_cancelled_attempts_go_to_waiting_attempts(executor: FakeExecutor) -> None:
    async with FakeManager(worker_profile(slots=3)) as manager, running_worker(manager, executor):
        await manager.assign(*(assignment(f"t{n}") for n in range(8)))
        await until_async(lambda: executor.running == 3, "three attempts should run")
        await manager.cancel(*(attempt_ref(f"t{n}") for n in range(3)))
        await until_async(lambda: len(executor.started) == 6, "six attempts should start")
        assert executor.most_running == 3
        executor.end_all()
        await manager.receive_results(5)


async def test_no_waiting_attempt_starts_while_the_lease_is_uncertain(
    executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "LEASE_CHECK_SECONDS", 0.01)
    async with (
        FakeManager(worker_profile(lease=SHORT_LEASE)) as manager,
        running_worker(
            manager, executor, transport=(transport := FaultInjectingTransport(manager.broker))
        ) as (worker, _),
    ):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started, "an attempt should start")
        transport.should_fail = lambda key: key.startswith("heartbeat")
        await until_async(
            lambda: not worker._lease.may_start.is_set(), "the lease should be uncertain"
        )
        await executor.end("a")
        await manager.receive_results(1)
        await manager.assign(assignment("c"))
        await until_async(
            lambda: len(worker._held_attempts) == 2, "the worker should hold two attempts"
        )
        assert executor.started == [("a", 1)]
        transport.should_fail = lambda _: False
        executor.end_all()
        await manager.receive_results(3)
    assert executor.started == [("a", 1), ("b", 1), ("c", 1)]


async def test_a_worker_with_an_uncertain_lease_still_returns_attempts_and_leaves(
    executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "LEASE_CHECK_SECONDS", 0.01)
    async with (
        FakeManager(worker_profile(lease=SHORT_LEASE)) as manager,
        running_worker(
            manager, executor, transport=(transport := FaultInjectingTransport(manager.broker))
        ) as (worker, running),
    ):
        transport.should_fail = lambda key: key.startswith("heartbeat")
        await until_async(
            lambda: not worker._lease.may_start.is_set(), "the lease should be uncertain"
        )
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(
            lambda: len(worker._held_attempts) == 2, "the worker should hold two attempts"
        )
        worker.stop()
        async with asyncio.timeout(2):
            await running
    assert manager.outcomes == {"a": Outcome.RETURNED, "b": Outcome.RETURNED}
    assert isinstance(manager.messages[-1], Disconnect)
    assert not executor.started


async def test_more_attempts_may_wait_than_tasks_are_remembered_and_none_runs_twice(
    manager: FakeManager, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_MAX_KNOWN_TASKS", 2)
    assignments = [assignment(f"t{n}") for n in range(9)]
    async with running_worker(manager, executor):
        await manager.assign(*assignments)
        await manager.assign(*assignments)
        executor.end_all()
        await manager.receive_results(9)
    assert executor.started == [(f"t{n}", 1) for n in range(9)]


async def test_a_brief_attempt_is_reported_by_its_result_alone_and_a_long_one_by_its_start_too(
    executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "BRIEF_ATTEMPT_SECONDS", 0.3)
    async with FakeManager(worker_profile(slots=2)) as manager, running_worker(manager, executor):
        await manager.assign(assignment("long"), assignment("brief"))
        await executor.end("brief")
        await manager.receive_results(1)
        await until_async(
            lambda: any(isinstance(message, Progress) for message in manager.messages),
            "a start should be reported",
        )
        executor.end_all()
        await manager.receive_results(2)
    reported = [
        item.id
        for message in manager.messages
        if isinstance(message, Progress)
        for item in message.items
    ]
    assert reported == ["long"]
