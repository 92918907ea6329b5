"""Workers that are lost, silent or unable: other workers do their tasks."""

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from skillq import topology
from skillq.messages import (
    Heartbeat,
    Lease,
    Outcome,
    Task,
    TaskStatus,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.rules.leases import LeasePolicy
from skillq_worker import Handlers
from skillq_worker.execution.executor import HandlerExecutor
from tests.support.fake_executor import FakeExecutor
from tests.support.manager_harness import (
    FAST_LEASE_POLICY,
    SHORT_LEASE,
    ManagerHarness,
    simple_tasks,
)
from tests.support.waiting import until_async

SUCCEEDED = TaskStatus.SUCCEEDED


async def test_the_task_of_a_dead_worker_is_done_by_another() -> None:
    async with ManagerHarness(leases=FAST_LEASE_POLICY, lease=SHORT_LEASE) as harness:
        victim_executor = FakeExecutor(hold=True)
        victim = await harness.connect_worker("Victim", 3, victim_executor)
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        await until_async(lambda: victim_executor.started_ids, "an attempt should start")
        successor = FakeExecutor()
        await harness.connect_worker("Successor", 9, successor)
        await victim.die()
        result = await running
        assert result.counts == {SUCCEEDED: 1}
        assert result.tasks["0"].worker == "Successor"
        assert result.tasks["0"].attempt == 2
        assert successor.started_ids == ["0"]
        assert harness.worker_entry(victim.profile) is None


async def test_a_worker_with_more_attempts_than_fit_into_one_heartbeat_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leases = LeasePolicy(resend_after=0.0, sweep_every=0.1)
    lease = Lease(heartbeat=0.2, suspect_after=5.0, dead_after=10.0)
    run = "r" * 60
    async with ManagerHarness(leases=leases, lease=lease) as harness:
        executor = FakeExecutor(hold=True)
        worker = await harness.connect_worker("Ada", 5, executor, slots=10_000)
        many = [Task(id=f"{n:0>114}", difficulty=1) for n in range(7000)]
        client = await harness.client()
        await client.submit(run, many)
        await until_async(
            lambda: len(executor.started_ids) == len(many), "all attempts should start"
        )
        attempts = harness.manager.state.workers.workers["ada"].attempts
        heartbeats: list[Heartbeat] = []
        decided: list[c.Command] = []
        handle = harness.manager.state.handle

        def record(events: Sequence[e.Event], now: float) -> list[c.Command]:
            heartbeats.extend(event for event in events if isinstance(event, Heartbeat))
            commands = handle(events, now)
            decided.extend(commands)
            return commands

        monkeypatch.setattr(harness.manager.state, "handle", record)
        await until_async(
            lambda: sum(event.upto is None for event in heartbeats) >= 2,
            "two whole heartbeats should arrive",
        )
        assert any(event.above for event in heartbeats), "a heartbeat comes in several messages"
        wrong = [d for d in decided if isinstance(d, c.Resend | c.CancelAttempts | c.SaveWorker)]
        assert not wrong, "no attempt is missing or unknown, and no worker is suspect"
        assert len(attempts) == len(many)
        assert harness.worker_entry(worker.profile) is not None
        executor.end_all()
        await until_async(lambda: harness.completed_runs, "the run should complete")
    assert not harness.unreadable


async def test_the_task_of_a_restarted_worker_is_assigned_again_at_once() -> None:
    async with ManagerHarness() as harness:  # with leases of half a minute
        victim_executor, successor = FakeExecutor(hold=True), FakeExecutor()
        victim = await harness.connect_worker("Ada", 5, victim_executor)
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        await until_async(lambda: victim_executor.started_ids, "an attempt should start")
        await victim.die()
        await harness.connect_worker("Ada", 5, successor)
        assert (await running).counts == {SUCCEEDED: 1}
        assert successor.started_ids == ["0"]


async def test_a_task_that_kills_its_workers_is_dead_lettered_and_other_work_goes_on() -> None:
    async with ManagerHarness(leases=FAST_LEASE_POLICY, lease=SHORT_LEASE) as harness:
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        for _ in range(3):
            victim_executor = FakeExecutor(hold=True)
            victim = await harness.connect_worker("Ada", 5, victim_executor)
            await until_async(
                partial(getattr, victim_executor, "started_ids"), "an attempt should start"
            )
            await victim.die()
        result = await running
        assert result.counts == {TaskStatus.DEAD_LETTERED: 1}
        await harness.connect_worker("Bob")
        assert (await harness.complete(*simple_tasks(1), run="next")).has_succeeded


async def test_the_attempts_of_a_draining_worker_are_given_to_another() -> None:
    async with ManagerHarness() as harness:
        executor = FakeExecutor(hold=True)
        leaving = await harness.connect_worker("Leaving", 3, executor)
        running = asyncio.create_task(harness.complete(*simple_tasks(3)))
        await until_async(lambda: executor.started_ids, "an attempt should start")
        leaving.stop()
        successor = FakeExecutor()
        await harness.connect_worker("Successor", 9, successor)
        executor.end_all()
        assert (await running).counts == {SUCCEEDED: 3}
        assert len(executor.started_ids) + len(successor.started_ids) == 3


async def test_a_draining_worker_does_not_get_its_returned_tasks_again() -> None:
    """A draining worker has free slots and returns attempts at once; this must not become a loop."""
    async with ManagerHarness(lease=Lease()) as harness:
        executor = FakeExecutor(hold=True)
        leaving = await harness.connect_worker("Leaving", 3, executor, slots=3)
        first = asyncio.create_task(harness.complete(*simple_tasks(1), run="first"))
        await until_async(lambda: executor.started_ids, "an attempt should start")
        leaving.stop()
        second = asyncio.create_task(harness.complete(*simple_tasks(1), run="second"))
        await until_async(
            lambda: harness.manager.state.workers.workers["leaving"].draining,
            "the manager should know that the worker drains",
        )
        await asyncio.sleep(0.1)
        successor = FakeExecutor()
        await harness.connect_worker("Successor", 9, successor)
        assert (await second).counts == {SUCCEEDED: 1}
        assert successor.started_ids == ["0"]
        assert harness.task_row("0", "second").attempt < 50
        executor.end_all()
        assert (await first).counts == {SUCCEEDED: 1}


async def test_an_undeliverable_assignment_is_assigned_again() -> None:
    async with ManagerHarness() as harness:
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        await until_async(lambda: harness.manager.state.tasks.live, "the task should be accepted")
        # The worker reports that it consumes its queue, but the queue does not exist.
        silent = await harness.connect_fake_worker("Silent", 3, has_queue=False)
        harness.broker.delete_queue(topology.worker_queue("silent"))
        await until_async(lambda: harness.task_row("0").attempt >= 1, "the task should be assigned")
        successor = FakeExecutor()
        await harness.connect_worker("Successor", 9, successor)
        result = await running
        assert result.counts == {SUCCEEDED: 1}
        assert result.tasks["0"].worker in {"Successor", silent.profile.title}


async def test_the_deleted_queue_of_a_worker_is_declared_again_and_the_worker_goes_on() -> None:
    async with ManagerHarness() as harness:
        executor = FakeExecutor()
        await harness.connect_worker("Ada", 5, executor)
        harness.broker.delete_queue(topology.worker_queue("ada"))
        result = await harness.complete(*simple_tasks(3))
        assert result.counts == {SUCCEEDED: 3}
        assert sorted(executor.started_ids) == ["0", "1", "2"]
        row = harness.task_row("0")
        assert row.attempts[0].outcome is Outcome.RETURNED


async def test_a_lost_assignment_is_resent() -> None:
    async with ManagerHarness(leases=FAST_LEASE_POLICY, lease=SHORT_LEASE) as harness:
        executor = FakeExecutor()
        worker = await harness.connect_worker("Ada", 5, executor)
        # Another queue gets the assignment, and the worker never receives it.
        harness.broker.delete_queue(topology.worker_queue("ada"))
        other_topology = topology.Topology(
            exchanges=(topology.COMMANDS,),
            queues=(topology.Queue("other"),),
            bindings=(topology.Binding(topology.COMMANDS, "assignment.ada", "other"),),
        )
        await harness.transport.declare(other_topology)
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        consumer = await harness.transport.consume("other", prefetch=10)
        lost = await consumer.batch()
        assert not executor.started_ids
        await harness.transport.declare(topology.worker_topology("ada"))
        assert (await running).counts == {SUCCEEDED: 1}
        assert executor.started_ids == ["0"]
        assert lost
        assert harness.worker_entry(worker.profile) is not None


async def test_a_task_of_an_unhandled_type_is_refused_and_given_to_a_worker_that_handles_it() -> (
    None
):
    handlers = Handlers()
    handlers.task("ocr")(lambda: "read")
    others = Handlers()
    others.task("speech")(lambda: "heard")
    with HandlerExecutor(handlers) as able, HandlerExecutor(others) as unable:
        async with ManagerHarness() as harness:
            # This worker claims to handle every type, and is the better fit.
            await harness.connect_worker("Overstated", 3, unable, types=None)
            await harness.connect_worker("Reader", 9, able)
            await harness.connect_worker("Listener", 9, unable)
            result = await harness.complete(
                Task(id="a", difficulty=1, type="ocr"), Task(id="b", difficulty=1, type="ocr")
            )
            assert result.counts == {SUCCEEDED: 2}
            assert {event.worker for event in result.tasks.values()} == {"Reader"}
            outcomes = [a.outcome for a in harness.task_row("a").attempts]
            assert outcomes == [Outcome.REFUSED, Outcome.SUCCEEDED]


async def test_an_unroutable_task_waits_with_its_reason_and_blocks_no_other() -> None:
    async with ManagerHarness() as harness:
        await harness.connect_worker("Junior", 3)
        client = await harness.client()
        await client.submit(
            "default", [Task(id="hard", difficulty=8, priority=100), *simple_tasks(3)]
        )
        await until_async(
            lambda: len(harness.manager.state.tasks.live) == 1, "the other tasks should end"
        )
        reason = harness.manager.reason(("default", "hard"))
        assert reason == "no worker can do it: it needs skill 8, the best has 3"
        await harness.connect_worker("Senior", 9)
        await until_async(lambda: harness.completed_runs, "the run should complete")
