"""The manager with real workers on a memory broker: every task ends once in spite of faults."""

import asyncio
from collections import Counter

import pytest

from skillq import timings, topology
from skillq.errors import Unreachable, UsageError
from skillq.messages import (
    Submission,
    Task,
    TaskStatus,
)
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.leadership.probe import CONSUMED_QUEUES
from skillq_manager.manager import Manager
from skillq_manager.store.base import TaskFilter
from skillq_manager.store.memory import MemoryStore
from tests.support.fake_executor import FakeExecutor
from tests.support.fault_injecting_transport import QueueLosingTransport
from tests.support.manager_harness import (
    FAST_LEASE_POLICY,
    SHORT_LEASE,
    ManagerHarness,
    simple_tasks,
)
from tests.support.virtual_time import loop_clock
from tests.support.waiting import until_async

SUCCEEDED = TaskStatus.SUCCEEDED


# --- runs -------------------------------------------------------------------------------------


async def test_every_task_is_done_once_by_one_of_many_workers() -> None:
    async with ManagerHarness() as harness:
        executors = [FakeExecutor() for _ in range(5)]
        for n, executor in enumerate(executors):
            await harness.connect_worker(f"w{n}", 5, executor, slots=2)
        result = await harness.complete(*simple_tasks(100))
    assert result.counts == {SUCCEEDED: 100}
    assert set(Counter(id for executor in executors for id in executor.started_ids).values()) == {1}
    assert all(executor.started_ids for executor in executors)


async def test_the_store_and_the_events_agree() -> None:
    async with ManagerHarness() as harness:
        await harness.connect_worker("Ada", 5)
        result = await harness.complete(*simple_tasks(5))
        rows = await harness.store.tasks(TaskFilter(run="default"))
    assert {row.task.id: (row.status, row.worker) for row in rows} == {
        id: (event.status, event.worker) for id, event in result.tasks.items()
    }
    assert all(
        row.started_at and row.finished_at and row.started_at <= row.finished_at for row in rows
    )


async def test_a_started_task_has_the_status_running() -> None:
    async with ManagerHarness() as harness:
        executor = FakeExecutor(hold=True)
        await harness.connect_worker("Ada", 5, executor)
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        await until_async(lambda: executor.started_ids, "an attempt should start")
        await until_async(
            lambda: harness.task_row("0").status is TaskStatus.RUNNING, "the task should be running"
        )
        executor.end_all()
        await running


async def test_two_runs_at_once_do_not_mix() -> None:
    async with ManagerHarness() as harness:
        await harness.connect_worker("Ada", 5, slots=3)
        morning, evening = await asyncio.gather(
            harness.complete(*simple_tasks(20), run="Morning"),
            harness.complete(*simple_tasks(10), Task(id="more", difficulty=1), run="Evening"),
        )
        assert sorted(harness.completed_runs) == ["evening", "morning"]
    assert (morning.counts, evening.counts) == ({SUCCEEDED: 20}, {SUCCEEDED: 11})
    assert "more" not in morning.tasks
    assert "more" in evening.tasks


async def test_a_run_whose_name_on_the_wire_is_taken_by_another_title_is_refused() -> None:
    async with ManagerHarness() as harness:
        await harness.connect_worker("Ada")
        await harness.complete(*simple_tasks(1), run="Nightly 1")
        with pytest.raises(UsageError, match="'nightly-1' would be nightly-1 on the wire"):
            await harness.complete(*simple_tasks(1), run="nightly-1")


async def test_a_resubmitted_task_is_known_and_not_done_again() -> None:
    async with ManagerHarness() as harness:
        executor = FakeExecutor()
        await harness.connect_worker("Ada", 5, executor)
        await harness.complete(*simple_tasks(3))
        client = await harness.client()
        receipt = await client.submit("default", simple_tasks(4))
        assert receipt is not None
        assert (receipt.accepted, receipt.known) == (1, 3)
        await until_async(lambda: len(executor.started_ids) == 4, "four attempts should start")


async def test_no_task_is_assigned_before_the_expected_workers_are_connected() -> None:
    async with ManagerHarness(expected_workers=2) as harness:
        senior = FakeExecutor()
        await harness.connect_worker("Senior", 9, senior)
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        await until_async(lambda: harness.manager.state.tasks.live, "the task should be accepted")
        reason = harness.manager.reason(("default", "0"))
        assert reason == "waits for workers: 1 of 2 expected are connected"
        await asyncio.sleep(0.1)  # give a wrong assignment time to happen
        assert not senior.started_ids
        junior = FakeExecutor()
        await harness.connect_worker("Junior", 3, junior)
        await running
        assert (junior.started_ids, senior.started_ids) == (["0"], [])


async def test_stop_when_done_ends_the_workers_and_then_the_manager() -> None:
    async with ManagerHarness(stop_when_done=True) as harness:
        workers = [await harness.connect_worker(f"w{n}") for n in range(3)]
        await harness.complete(*simple_tasks(6))
        async with asyncio.timeout(5):
            await harness.running
            await asyncio.gather(*(worker.running for worker in workers))
        assert harness.completed_runs == ["default"]
        assert not harness.manager.state.workers.workers


async def test_a_manager_without_stop_when_done_serves_the_next_run() -> None:
    async with ManagerHarness() as harness:
        worker = await harness.connect_worker("Ada")
        await harness.complete(*simple_tasks(2), run="one")
        await harness.complete(*simple_tasks(2), run="two")
        assert harness.completed_runs == ["one", "two"]
        assert not harness.running.done()
        assert not worker.running.done()


async def test_a_worker_that_never_disconnects_does_not_keep_the_manager_from_leaving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "STOP_SECONDS", 0.2)
    async with ManagerHarness(stop_when_done=True) as harness:
        await harness.connect_worker("Ada", 9)
        await harness.connect_fake_worker("Silent", 10, has_queue=False)
        await harness.complete(*simple_tasks(1))
        async with asyncio.timeout(5):
            await harness.running


async def test_an_old_stop_message_does_not_stop_the_next_incarnation_of_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stop message waits in the queue of a worker that died before the message arrived."""
    monkeypatch.setattr(timings, "STOP_SECONDS", 0.1)
    async with ManagerHarness(stop_when_done=True) as first:
        victim = await first.connect_worker("Victim", 3)
        await first.connect_worker("Other", 9)
        await victim.die()
        await first.complete(*simple_tasks(1, difficulty=9))
        await first.running
        async with ManagerHarness(broker=first.broker) as second:
            successor = await second.connect_worker("Victim", 3)
            assert (await second.complete(*simple_tasks(1))).has_succeeded
            assert not successor.running.done()


# --- readiness --------------------------------------------------------------------------------


async def test_a_manager_is_ready_once_each_of_its_consumers_has_received_a_message() -> None:
    harness = ManagerHarness()
    ready = [harness.manager.is_ready]
    async with harness:
        ready.append(harness.manager.is_ready)
    ready.append(harness.manager.is_ready)
    assert ready == [False, True, False]


async def test_a_standby_manager_that_waits_for_the_queues_is_not_ready() -> None:
    async with ManagerHarness() as first, MemoryTransport(first.broker) as transport:
        store = MemoryStore()
        second = Manager(
            transport,
            store,
            lambda: State(BestFit(), chance=lambda: 0.0, store=store.id),
            clock=loop_clock(),
            on_complete=first.on_complete,
        )
        running = asyncio.create_task(second.run())
        for _ in range(100):
            await asyncio.sleep(0.001)
            assert not second.is_ready
        first.manager.stop()
        await until_async(lambda: second.is_ready, "the second manager should be ready")
        assert second.is_leading
        second.stop()
        await running


async def test_a_manager_whose_consumers_receive_nothing_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ManagerHarness() as harness:
        assert harness.manager.is_ready
        monkeypatch.setattr(timings, "READY_WITHIN_SECONDS", 0.0)
        assert not harness.manager.is_ready


async def test_a_second_manager_leaves_with_an_error_and_the_first_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "TAKE_OVER_SECONDS", 0.0)
    async with ManagerHarness() as first:
        async with ManagerHarness(broker=first.broker) as second:
            with pytest.raises(UsageError) as caught:
                await second.running
        assert str(caught.value) == (
            "another manager consumes skillq.manager.heartbeats on this broker; "
            "stop it, or use another vhost"
        )
        await first.connect_worker("Ada")
        assert (await first.complete(*simple_tasks(1))).has_succeeded


async def test_a_manager_takes_over_when_its_predecessor_leaves() -> None:
    async with ManagerHarness() as first:
        second = ManagerHarness(broker=first.broker)
        await second._stack.enter_async_context(second.manager_transport)
        running = asyncio.create_task(second.manager.run())
        await asyncio.sleep(0.05)
        assert not second.manager.is_leading
    await until_async(lambda: second.manager.is_leading, "the second manager should lead")
    second.manager.stop()
    await running
    await second._stack.aclose()


@pytest.mark.parametrize("queue", CONSUMED_QUEUES)
async def test_a_manager_whose_queue_was_taken_steps_down_and_leaves_with_an_error(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "STAND_BY_SECONDS", 0.05)
    monkeypatch.setattr(timings, "TAKE_OVER_SECONDS", 0.2)
    broker = MemoryBroker()
    transport = QueueLosingTransport(broker)
    async with ManagerHarness(broker=broker, manager_transport=transport) as harness:
        transport.lose_queue(queue)
        await harness.transport.consume(queue, prefetch=1, exclusive=True)
        await until_async(lambda: not harness.manager.is_leading, "the manager should step down")
        assert not any(
            consumer.live
            for consumer in transport._consumers
            if consumer._queue.name != CONSUMED_QUEUES[0]
        )
        with pytest.raises(Unreachable):
            await harness.manager.submit(submission(*simple_tasks(1)))
        with pytest.raises(UsageError) as caught:
            async with asyncio.timeout(5):
                await harness.running
    assert str(caught.value) == (
        f"another manager consumes {queue} on this broker; stop it, or use another vhost"
    )


async def test_a_manager_goes_on_after_its_own_dead_connection_held_its_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "STAND_BY_SECONDS", 0.05)
    broker = MemoryBroker()
    transport = QueueLosingTransport(broker)
    async with ManagerHarness(broker=broker, manager_transport=transport) as harness:
        executor = FakeExecutor(hold=True)
        await harness.connect_worker("Ada", 5, executor)
        running = asyncio.create_task(harness.complete(*simple_tasks(3)))
        await until_async(lambda: executor.started_ids, "an attempt should start")
        transport.lose_queue(topology.MANAGER_HEARTBEATS)
        dead_connection = await harness.transport.consume(
            topology.MANAGER_HEARTBEATS, prefetch=1, exclusive=True
        )
        await until_async(lambda: not harness.manager.is_leading, "the manager should step down")
        await dead_connection.close()
        await until_async(lambda: harness.manager.is_leading, "the manager should lead")
        executor.end_all()
        assert (await running).counts == {SUCCEEDED: 3}
        assert sorted(executor.started_ids) == ["0", "1", "2"]


async def test_a_broker_that_lost_its_queues_gets_them_again_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(timings, "QUEUE_CHECK_SECONDS", 0.02)
    async with ManagerHarness(
        leases=FAST_LEASE_POLICY, lease=SHORT_LEASE.model_copy(update={"dead_after": 5.0})
    ) as harness:
        executor = FakeExecutor(hold=True)
        worker = await harness.connect_worker("Ada", 5, executor)
        running = asyncio.create_task(harness.complete(*simple_tasks(3)))
        await until_async(lambda: executor.started_ids, "an attempt should start")
        for queue in [*CONSUMED_QUEUES, topology.DEAD_LETTERS, topology.worker_queue("ada")]:
            harness.broker.delete_queue(queue)
        assert not worker.is_ready
        await until_async(lambda: worker.is_ready, "the worker should be ready")
        executor.end_all()
        assert (await running).counts == {SUCCEEDED: 3}
        assert (await harness.complete(*simple_tasks(2), run="next")).has_succeeded


# --- submissions by method call ----------------------------------------------------------------


def submission(*tasks: Task) -> Submission:
    return Submission(submission_id="1", run="default", run_title="default", tasks=tasks)


async def test_a_submission_by_method_call_is_answered() -> None:
    async with ManagerHarness() as harness:
        answer = await harness.manager.submit(submission(*simple_tasks(2)))
        assert (answer.accepted, answer.known, answer.reason) == (2, 0, None)
        refused = await harness.manager.submit(
            submission(Task(id="x", difficulty=1, depends_on=("gone",)))
        )
        assert "depends on gone" in str(refused.reason)


async def test_a_submission_to_a_manager_that_has_left_raises_unreachable() -> None:
    async with ManagerHarness() as harness:
        harness.manager.stop()
        await harness.running
        async with asyncio.timeout(5):
            with pytest.raises(Unreachable, match="ask again"):
                await harness.manager.submit(submission(*simple_tasks(1)))


async def test_a_manager_that_stops_refuses_submissions_that_it_has_not_decided() -> None:
    harness = ManagerHarness()
    waiting = asyncio.create_task(harness.manager.submit(submission(*simple_tasks(1))))
    harness.manager.stop()  # the manager leaves before its first round
    async with harness:
        async with asyncio.timeout(5):
            with pytest.raises(Unreachable, match="ask again"):
                await waiting


async def test_a_run_is_done_by_the_next_manager_after_the_store_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "CLIENT_SILENCE_SECONDS", 0.1)
    async with ManagerHarness() as first:
        executor = FakeExecutor(hold=True)
        worker = await first.connect_worker("Ada", 5, executor)
        running = asyncio.create_task(first.complete(*simple_tasks(2)))
        await until_async(lambda: executor.started_ids, "an attempt should start")
        first.manager.stop()
        await first.running
        async with ManagerHarness(broker=first.broker) as second:
            await until_async(
                lambda: second.worker_entry(worker.profile) is not None,
                "the worker should connect to the second manager",
            )
            executor.end_all()
            assert (await running).counts == {SUCCEEDED: 2}
            assert second.completed_runs == ["default"]


async def test_a_run_that_an_earlier_manager_ended_is_announced_once_when_resubmitted() -> None:
    async with ManagerHarness() as first:
        await first.connect_worker("Ada")
        await first.complete(*simple_tasks(2))
    async with ManagerHarness(store=first.store) as second:
        for _ in range(2):
            await second.complete(*simple_tasks(2))
        assert second.completed_runs == ["default"]
