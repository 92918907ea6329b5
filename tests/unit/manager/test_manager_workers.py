"""Workers that are lost, silent or unable: their tasks are done by others."""

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
from tests.unit.manager.hands import Count
from tests.unit.manager.plant import QUICK, SHORT, Plant, tasks
from tests.unit.worker.boss import until

SUCCEEDED = TaskStatus.SUCCEEDED


async def test_the_task_of_a_worker_that_dies_is_done_by_another() -> None:
    async with Plant(leases=QUICK, lease=SHORT) as plant:
        doomed = Count(held=True)
        victim = await plant.hand("Victim", 3, doomed)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: doomed.begun)
        heir = Count()
        await plant.hand("Heir", 9, heir)
        await victim.die()
        result = await running
        assert result.counts == {SUCCEEDED: 1}
        assert result.tasks["0"].worker == "Heir"
        assert result.tasks["0"].attempt == 2
        assert heir.begun == ["0"]
        assert plant.entry(victim.profile) is None


async def test_a_worker_that_holds_more_than_one_message_can_name_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leases = LeasePolicy(resend_after=0.0, sweep_every=0.1)
    lease = Lease(heartbeat=0.2, suspect_after=5.0, dead_after=10.0)
    run = "r" * 60
    async with Plant(leases=leases, lease=lease) as plant:
        count = Count(held=True)
        hand = await plant.hand("Ada", 5, count, slots=10_000)
        many = [Task(id=f"{n:0>114}", difficulty=1) for n in range(7000)]
        client = await plant.client()
        await client.submit(run, many)
        await until(lambda: len(count.begun) == len(many))
        holds = plant.manager.state.workers.workers["ada"].attempts
        heard: list[Heartbeat] = []
        decided: list[c.Command] = []
        handle = plant.manager.state.handle

        def listen(events: Sequence[e.Event], now: float) -> list[c.Command]:
            heard.extend(event for event in events if isinstance(event, Heartbeat))
            commands = handle(events, now)
            decided.extend(commands)
            return commands

        monkeypatch.setattr(plant.manager.state, "handle", listen)
        await until(lambda: sum(event.upto is None for event in heard) >= 2)
        assert any(event.above for event in heard), "it comes in parts"
        wrong = [d for d in decided if isinstance(d, c.Resend | c.CancelAttempts | c.SaveWorker)]
        assert not wrong, "nothing is missing, nothing is a stranger's, and nobody is suspect"
        assert len(holds) == len(many)
        assert plant.entry(hand.profile) is not None
        count.let_go()
        await until(lambda: plant.completed)
    assert not plant.dead


async def test_the_task_of_a_worker_that_was_started_anew_is_given_out_at_once() -> None:
    async with Plant() as plant:  # with leases of half a minute
        doomed, heir = Count(held=True), Count()
        victim = await plant.hand("Ada", 5, doomed)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: doomed.begun)
        await victim.die()
        await plant.hand("Ada", 5, heir)
        assert (await running).counts == {SUCCEEDED: 1}
        assert heir.begun == ["0"]


async def test_a_task_that_kills_its_workers_is_given_up_on_and_the_fleet_lives() -> None:
    async with Plant(leases=QUICK, lease=SHORT) as plant:
        running = asyncio.create_task(plant.complete(*tasks(1)))
        for _ in range(3):
            doomed = Count(held=True)
            victim = await plant.hand("Ada", 5, doomed)
            await until(partial(getattr, doomed, "begun"))
            await victim.die()
        result = await running
        assert result.counts == {TaskStatus.DEAD_LETTERED: 1}
        await plant.hand("Bob")
        assert (await plant.complete(*tasks(1), run="next")).has_succeeded


async def test_what_a_leaving_worker_holds_is_given_to_another() -> None:
    async with Plant() as plant:
        count = Count(held=True)
        leaving = await plant.hand("Leaving", 3, count)
        running = asyncio.create_task(plant.complete(*tasks(3)))
        await until(lambda: count.begun)
        leaving.stop()
        heir = Count()
        await plant.hand("Heir", 9, heir)
        count.let_go()
        assert (await running).counts == {SUCCEEDED: 3}
        assert len(count.begun) + len(heir.begun) == 3


async def test_a_worker_that_drains_is_not_offered_its_tasks_again_and_again() -> None:
    """It has free slots and hands all back at once: until the manager knows, both would turn in a circle."""
    async with Plant(lease=Lease()) as plant:
        count = Count(held=True)
        leaving = await plant.hand("Leaving", 3, count, slots=3)
        first = asyncio.create_task(plant.complete(*tasks(1), run="first"))
        await until(lambda: count.begun)
        leaving.stop()
        second = asyncio.create_task(plant.complete(*tasks(1), run="second"))
        await until(lambda: plant.manager.state.workers.workers["leaving"].draining)
        await asyncio.sleep(0.1)
        heir = Count()
        await plant.hand("Heir", 9, heir)
        assert (await second).counts == {SUCCEEDED: 1}
        assert heir.begun == ["0"]
        assert plant.store._tasks["second", "0"].attempt < 50
        count.let_go()
        assert (await first).counts == {SUCCEEDED: 1}


async def test_an_assignment_that_comes_back_is_given_out_again_once_the_queue_is_there() -> None:
    async with Plant() as plant:
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: plant.manager.state.tasks.live)
        # It says that it consumes its queue, and there is none.
        ghost = await plant.meet("Ghost", 3)
        plant.broker.delete_queue(topology.worker_queue("ghost"))
        await until(lambda: plant.store._tasks["default", "0"].attempt >= 1)
        heir = Count()
        await plant.hand("Heir", 9, heir)
        result = await running
        assert result.counts == {SUCCEEDED: 1}
        assert result.tasks["0"].worker in {"Heir", ghost.title}


async def test_a_worker_whose_queue_was_deleted_gets_it_again_and_goes_on() -> None:
    async with Plant() as plant:
        count = Count()
        await plant.hand("Ada", 5, count)
        plant.broker.delete_queue(topology.worker_queue("ada"))
        result = await plant.complete(*tasks(3))
        assert result.counts == {SUCCEEDED: 3}
        assert sorted(count.begun) == ["0", "1", "2"]
        row = plant.store._tasks["default", "0"]
        assert row.attempts[0].outcome is Outcome.RETURNED


async def test_an_assignment_that_was_lost_on_the_way_is_sent_again() -> None:
    async with Plant(leases=QUICK, lease=SHORT) as plant:
        count = Count()
        hand = await plant.hand("Ada", 5, count)
        # A stranger takes it out of the queue, and the worker never sees it.
        plant.broker.delete_queue(topology.worker_queue("ada"))
        thief_queue = topology.Topology(
            exchanges=(topology.COMMANDS,),
            queues=(topology.Queue("thief"),),
            bindings=(topology.Binding(topology.COMMANDS, "assignment.ada", "thief"),),
        )
        await plant.voice.declare(thief_queue)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        thief = await plant.voice.consume("thief", prefetch=10)
        stolen = await thief.batch()
        assert not count.begun
        await plant.voice.declare(topology.worker_topology("ada"))
        assert (await running).counts == {SUCCEEDED: 1}
        assert count.begun == ["0"]
        assert stolen
        assert plant.entry(hand.profile) is not None


async def test_an_unhandled_type_is_refused_and_given_to_a_worker_that_has_it() -> None:
    handlers = Handlers()
    handlers.task("ocr")(lambda: "read")
    others = Handlers()
    others.task("speech")(lambda: "heard")
    with HandlerExecutor(handlers) as able, HandlerExecutor(others) as unable:
        async with Plant() as plant:
            # It claims to take any, and fits better.
            await plant.hand("Braggart", 3, unable, types=None)
            await plant.hand("Reader", 9, able)
            await plant.hand("Listener", 9, unable)
            result = await plant.complete(
                Task(id="a", difficulty=1, type="ocr"), Task(id="b", difficulty=1, type="ocr")
            )
            assert result.counts == {SUCCEEDED: 2}
            assert {event.worker for event in result.tasks.values()} == {"Reader"}
            outcomes = [a.outcome for a in plant.store._tasks["default", "a"].attempts]
            assert outcomes == [Outcome.REFUSED, Outcome.SUCCEEDED]


async def test_a_task_that_nobody_can_do_waits_visibly_and_blocks_no_other() -> None:
    async with Plant() as plant:
        await plant.hand("Junior", 3)
        client = await plant.client()
        await client.submit("default", [Task(id="hard", difficulty=8, priority=100), *tasks(3)])
        await until(lambda: len(plant.manager.state.tasks.live) == 1)
        reason = plant.manager.reason(("default", "hard"))
        assert reason == "no worker can do it: it needs skill 8, the best has 3"
        await plant.hand("Senior", 9)
        await until(lambda: plant.completed)
