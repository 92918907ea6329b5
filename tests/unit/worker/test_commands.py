"""Messages to a worker and its reports, also when messages are lost or repeated."""

import asyncio

import pytest

from skillq import timings, topology
from skillq.messages import (
    Connect,
    Disconnect,
    Heartbeat,
    Outcome,
    Progress,
    TaskResults,
)
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_worker.worker import Worker
from tests.support.fake_executor import FakeExecutor
from tests.support.fake_manager import (
    STORE_ID,
    FakeManager,
    assignment,
    attempt_ref,
    running_worker,
    worker_profile,
)
from tests.support.fault_injecting_transport import FaultInjectingTransport
from tests.support.virtual_time import loop_clock
from tests.support.waiting import until_async

# --- assignments -----------------------------------------------------------------------------


async def test_an_assignment_is_started_and_its_start_and_result_are_reported(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(assignment())
        (progress,) = await manager.receive(Progress)
        assert [(i.run, i.id, i.attempt) for i in progress.items] == [("default", "a", 1)]
        assert not manager.results
        await executor.end()
        (result,) = await manager.receive_results(1)
    assert (result.outcome, result.output, result.attempt) == (Outcome.SUCCEEDED, "a", 1)
    assert result.started_at is not None
    assert result.finished_at is not None
    assert result.started_at <= result.finished_at


async def test_every_report_names_the_worker_its_incarnation_and_the_store(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    """The manager ignores reports without them."""
    async with running_worker(manager, executor):
        await manager.assign(assignment())
        await executor.end()
        await manager.receive_results(1)
        reports = [*manager.received(Progress), *manager.received(TaskResults)]
    for report in reports:
        assert isinstance(report, Progress | TaskResults)
        assert (report.worker, report.incarnation, report.store) == (
            "ada",
            manager.worker.incarnation,
            STORE_ID,
        )


async def test_an_assignment_that_is_delivered_twice_runs_once(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(assignment())
        await manager.assign(assignment(), assignment("b"))
        await executor.end()
        await manager.receive_results(1)
        await manager.assign(assignment())  # the attempt has ended
        await executor.end("b")
        await manager.receive_results(2)
    assert executor.started == [("a", 1), ("b", 1)]
    assert set(manager.outcomes) == {"a", "b"}


async def test_an_attempt_older_than_the_last_one_is_not_run(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    executor.end_all()
    async with running_worker(manager, executor):
        await manager.assign(assignment(attempt=2))
        await manager.receive_results(1)
        await manager.assign(assignment(attempt=1))
        await manager.assign(assignment(attempt=3))
        await manager.receive_results(2)
    assert executor.started == [("a", 2), ("a", 3)]


async def test_an_assignment_to_an_earlier_incarnation_is_ignored(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    executor.end_all()
    async with running_worker(manager, executor):
        await manager.assign(assignment("old"), incarnation="before")
        await manager.cancel(attempt_ref("new"), incarnation="before")
        await manager.assign(assignment("new"))
        await manager.receive_results(1)
    assert executor.started == [("new", 1)]


async def test_no_more_attempts_run_at_a_time_than_there_are_slots(executor: FakeExecutor) -> None:
    async with FakeManager(worker_profile(slots=3)) as manager, running_worker(manager, executor):
        await manager.assign(*(assignment(str(n)) for n in range(10)))
        await until_async(lambda: executor.running == 3, "three attempts should run")
        executor.end_all()
        await manager.receive_results(10)
    assert executor.most_running == 3
    assert sorted(executor.started) == [(str(n), 1) for n in range(10)]


async def test_an_assignment_of_a_new_store_cancels_attempts_of_the_old_store(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    """A manager that lost its store numbers attempts from 1 again."""
    async with running_worker(manager, executor):
        await manager.assign(assignment(), store="old")
        await until_async(lambda: executor.started, "an attempt should start")
        await manager.assign(assignment(), store="new")
        await until_async(lambda: len(executor.started) == 2, "two attempts should start")
        assert executor.cancelled == [("a", 1)]
        executor.end_all()
        await manager.receive_results(1)
    assert [report.store for report in manager.received(TaskResults)] == ["new"]


async def test_an_attempt_of_a_new_store_can_be_cancelled(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    """It has the number of an attempt of the old store, which ends after its start."""
    async with running_worker(manager, executor):
        await manager.assign(assignment(), store="old")
        await until_async(lambda: executor.running, "an attempt should run")
        await manager.assign(assignment(), store="new")
        await until_async(lambda: len(executor.started) == 2, "two attempts should start")
        await manager.cancel(attempt_ref(), store="new")
        await until_async(lambda: not executor.running, "no attempt should run")
    assert executor.cancelled == [("a", 1), ("a", 1)]


async def test_a_result_for_the_old_store_is_never_sent_to_the_new_store(
    executor: FakeExecutor,
) -> None:
    """This holds also for a result that could not be sent because of a broker outage."""
    async with FakeManager(worker_profile(slots=2)) as manager:
        transport = FaultInjectingTransport(manager.broker)
        async with running_worker(manager, executor, transport=transport):
            transport.should_fail = lambda key: key.startswith("progress")
            await manager.assign(assignment("a"), assignment("b"), store="old")
            await until_async(lambda: len(executor.started) == 2, "two attempts should start")
            await until_async(lambda: transport.failed_keys, "a report should fail")
            await executor.end("a")  # the result waits behind the report that fails
            await manager.assign(assignment("a"), store="new")
            await until_async(lambda: len(executor.started) == 3, "three attempts should start")
            transport.should_fail = lambda _: False
            executor.end_all()
            await manager.receive_results(1)
            await until_async(
                lambda: any(r.store == "new" for r in manager.received(TaskResults)),
                "a result for the new store should arrive",
            )
        new = [
            r
            for report in manager.received(TaskResults)
            if report.store == "new"
            for r in report.results
        ]
        assert len(new) == 1


# --- cancel and stop -------------------------------------------------------------------------


async def test_a_cancelled_attempt_ends_is_no_longer_held_and_frees_its_slot(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started == [("a", 1)], "a should start")
        await manager.cancel(attempt_ref("a"))
        await until_async(lambda: executor.started == [("a", 1), ("b", 1)], "b should start")
        assert executor.cancelled == [("a", 1)]
        await until_async(
            lambda: (
                manager.received(Heartbeat)
                and manager.received(Heartbeat)[-1].holds == (attempt_ref("b"),)
            ),
            "a heartbeat should hold only b",
        )
        await executor.end("b")
        await manager.receive_results(1)
    assert manager.outcomes == {"b": Outcome.SUCCEEDED}


async def test_a_draining_worker_finishes_running_attempts_and_returns_waiting_ones(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor) as (_, running):
        await manager.assign(assignment("a"), assignment("b"))
        await until_async(lambda: executor.started, "an attempt should start")
        await manager.stop()
        await manager.receive_results(1)  # at once, while the other attempt runs
        assert manager.outcomes == {"b": Outcome.RETURNED}
        await manager.assign(assignment("c"))
        await manager.receive_results(2)
        assert manager.outcomes["c"] is Outcome.RETURNED
        assert not running.done()
        await executor.end("a")
        await running
    assert manager.outcomes["a"] is Outcome.SUCCEEDED
    assert executor.started == [("a", 1)]
    assert isinstance(manager.messages[-1], Disconnect)


async def test_heartbeats_report_that_the_worker_drains(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor):
        await manager.assign(assignment())
        await until_async(lambda: executor.running, "an attempt should run")
        await manager.stop()
        await until_async(
            lambda: manager.received(Heartbeat) and manager.received(Heartbeat)[-1].draining,
            "a heartbeat should report that the worker drains",
        )
        assert manager.received(Heartbeat)[-1].holds == (attempt_ref(),)
        executor.end_all()


async def test_a_draining_worker_sends_a_heartbeat_at_once(executor: FakeExecutor) -> None:
    profile = worker_profile(lease={"heartbeat": 60.0})
    async with FakeManager(profile) as manager, running_worker(manager, executor):
        await manager.assign(assignment())
        await until_async(lambda: executor.running, "an attempt should run")
        await manager.stop()
        (heartbeat,) = await manager.receive(Heartbeat)
        assert heartbeat.draining
        executor.end_all()


async def test_a_worker_that_started_before_its_manager_connects_soon_after_the_manager_starts(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    """The pauses grow, but the worker looks for its queue at once when a manager reads its message."""
    async with MemoryTransport(MemoryBroker()) as transport:
        manager_transport = MemoryTransport(transport._broker)
        worker = Worker(transport, manager.worker, executor, clock=loop_clock(), grace=0)
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0.8)  # after that, the worker pauses for more than a second
        async with manager_transport:
            await manager_transport.declare(topology.MANAGER)
            reports = await manager_transport.consume(topology.MANAGER_REPORTS, prefetch=10)
            async with asyncio.timeout(5):
                await reports.batch()
            connect_read_at = asyncio.get_running_loop().time()
            await manager_transport.declare(topology.worker_topology("ada"))
            await until_async(lambda: worker.is_ready, "the worker should be ready")
            assert asyncio.get_running_loop().time() - connect_read_at < 0.5
            worker.stop()
            await running


async def test_attempts_that_do_not_finish_within_the_grace_are_cancelled(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor, grace=0.05) as (worker, running):
        await manager.assign(assignment())
        await until_async(lambda: executor.running, "an attempt should run")
        worker.stop()
        await running
    assert executor.cancelled == [("a", 1)]
    assert not manager.results
    assert isinstance(manager.messages[-1], Disconnect)


async def test_a_worker_that_stops_now_cancels_its_attempts_and_disconnects(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with running_worker(manager, executor) as (_, running):
        await manager.assign(assignment())
        await until_async(lambda: executor.running, "an attempt should run")
        started_at = asyncio.get_running_loop().time()
        await manager.stop(mode="now")
        await running
        assert asyncio.get_running_loop().time() - started_at < 2
    assert executor.cancelled == [("a", 1)]
    last = manager.messages[-1]
    assert isinstance(last, Disconnect)
    assert last.incarnation == manager.worker.incarnation


async def test_a_second_stop_ends_the_grace_of_the_first(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    """As for Ctrl-C twice: the first waits for running attempts, the second does not."""
    async with running_worker(manager, executor) as (worker, running):
        await manager.assign(assignment())
        await until_async(lambda: executor.running, "an attempt should run")
        worker.stop()
        await until_async(
            lambda: manager.received(Heartbeat) and manager.received(Heartbeat)[-1].draining,
            "a heartbeat should report that the worker drains",
        )
        worker.stop(now=True)
        async with asyncio.timeout(2):
            await running
    assert executor.cancelled == [("a", 1)]


async def test_a_worker_whose_broker_never_answers_still_leaves(
    manager: FakeManager, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "LEAVE_SECONDS", 0.1)
    transport = FaultInjectingTransport(manager.broker)
    async with running_worker(manager, executor, transport=transport) as (worker, running):
        transport.should_fail = lambda _: True
        await manager.assign(assignment())
        await executor.end()
        worker.stop()
        async with asyncio.timeout(2):
            await running


# --- results of a broker outage -----------------------------------------------------------------


async def test_a_result_is_resent_and_its_attempt_held_until_the_broker_confirms_it(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    transport = FaultInjectingTransport(manager.broker)
    async with running_worker(manager, executor, transport=transport):
        transport.should_fail = lambda key: key.startswith("result")
        await manager.assign(assignment())
        await executor.end()
        await until_async(
            lambda: transport.failed_keys.count("result.ada") >= 3, "three reports should fail"
        )
        heartbeats = len(manager.received(Heartbeat))
        await until_async(
            lambda: len(manager.received(Heartbeat)) > heartbeats, "another heartbeat should arrive"
        )
        assert manager.received(Heartbeat)[-1].holds == (attempt_ref(),), "the lease goes on"
        assert not manager.results
        transport.should_fail = lambda _: False
        await manager.receive_results(1)
        await until_async(
            lambda: not manager.received(Heartbeat)[-1].holds, "a heartbeat should hold nothing"
        )
    assert len(manager.results) == 1


async def test_results_of_a_broker_outage_are_reported_together(executor: FakeExecutor) -> None:
    async with FakeManager(worker_profile(slots=20)) as manager:
        transport = FaultInjectingTransport(manager.broker)
        async with running_worker(manager, executor, transport=transport):
            transport.should_fail = lambda key: not key.startswith("heartbeat")
            await manager.assign(*(assignment(str(n)) for n in range(20)))
            await until_async(lambda: len(executor.started) == 20, "all attempts should start")
            executor.end_all()
            await until_async(
                lambda: transport.failed_keys and not executor.running,
                "all attempts should end and a report fail",
            )
            transport.should_fail = lambda _: False
            await manager.receive_results(20)
        assert sorted(manager.outcomes) == sorted(str(n) for n in range(20))
        assert len(manager.received(TaskResults)) <= 2


async def test_a_drain_waits_for_the_last_result_to_be_confirmed(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    transport = FaultInjectingTransport(manager.broker)
    async with running_worker(manager, executor, transport=transport) as (worker, running):
        transport.should_fail = lambda key: (
            key.startswith("result") and transport.failed_keys.count(key) < 5
        )
        await manager.assign(assignment())
        await until_async(lambda: executor.running, "an attempt should run")
        worker.stop()
        await executor.end()
        await running
    types = [
        type(message)
        for message in manager.messages
        if isinstance(message, TaskResults | Disconnect)
    ]
    assert types == [TaskResults, Disconnect]


async def test_a_connect_message_that_is_not_confirmed_is_resent(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    transport = FaultInjectingTransport(manager.broker)
    transport.should_fail = lambda key: key.startswith("connect") and len(transport.failed_keys) < 3
    async with running_worker(manager, executor, transport=transport):
        assert transport.failed_keys == ["connect.ada"] * 3
        assert [connect.ready for connect in await manager.receive(Connect)] == [True]
