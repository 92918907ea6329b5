"""The manager with real workers on a memory broker: every task ends once, whatever comes in between."""

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
from tests.support.virtual_time import loop_clock
from tests.unit.manager.hands import Count
from tests.unit.manager.plant import QUICK, SHORT, Plant, tasks
from tests.unit.worker.boss import Fickle, until

SUCCEEDED = TaskStatus.SUCCEEDED


# --- runs -------------------------------------------------------------------------------------


async def test_every_task_is_done_once_by_one_of_many_workers() -> None:
    async with Plant() as plant:
        counts = [Count() for _ in range(5)]
        for n, count in enumerate(counts):
            await plant.hand(f"w{n}", 5, count, slots=2)
        result = await plant.complete(*tasks(100))
    assert result.counts == {SUCCEEDED: 100}
    assert set(Counter(id for count in counts for id in count.begun).values()) == {1}
    assert all(count.begun for count in counts)


async def test_the_store_tells_the_same_as_the_events() -> None:
    async with Plant() as plant:
        await plant.hand("Ada", 5)
        result = await plant.complete(*tasks(5))
        rows = await plant.store.tasks(TaskFilter(run="default"))
    assert {row.task.id: (row.status, row.worker) for row in rows} == {
        id: (event.status, event.worker) for id, event in result.tasks.items()
    }
    assert all(
        row.started_at and row.finished_at and row.started_at <= row.finished_at for row in rows
    )


async def test_a_task_that_is_begun_is_shown_running() -> None:
    async with Plant() as plant:
        count = Count(held=True)
        await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: count.begun)
        await until(lambda: plant.store._tasks["default", "0"].status is TaskStatus.RUNNING)
        count.let_go()
        await running


async def test_two_runs_at_once_do_not_mix() -> None:
    async with Plant() as plant:
        await plant.hand("Ada", 5, slots=3)
        one, two = await asyncio.gather(
            plant.complete(*tasks(20), run="Morning"),
            plant.complete(*tasks(10), Task(id="more", difficulty=1), run="Evening"),
        )
        assert sorted(plant.completed) == ["evening", "morning"]
    assert (one.counts, two.counts) == ({SUCCEEDED: 20}, {SUCCEEDED: 11})
    assert "more" not in one.tasks
    assert "more" in two.tasks


async def test_two_runs_whose_names_fall_together_are_refused() -> None:
    async with Plant() as plant:
        await plant.hand("Ada")
        await plant.complete(*tasks(1), run="Nightly 1")
        with pytest.raises(UsageError, match="'nightly-1' would be nightly-1 on the wire"):
            await plant.complete(*tasks(1), run="nightly-1")


async def test_what_is_submitted_again_is_known_and_done_no_second_time() -> None:
    async with Plant() as plant:
        count = Count()
        await plant.hand("Ada", 5, count)
        await plant.complete(*tasks(3))
        client = await plant.client()
        receipt = await client.submit("default", tasks(4))
        assert receipt is not None
        assert (receipt.accepted, receipt.known) == (1, 3)
        await until(lambda: len(count.begun) == 4)


async def test_nothing_is_assigned_before_the_expected_workers_are_there() -> None:
    async with Plant(expected_workers=2) as plant:
        senior = Count()
        await plant.hand("Senior", 9, senior)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: plant.manager.state.tasks.live)
        reason = plant.manager.reason(("default", "0"))
        assert reason == "waits for workers: 1 of 2 expected are connected"
        await asyncio.sleep(0.1)  # that nothing happens takes time to see
        assert not senior.begun
        junior = Count()
        await plant.hand("Junior", 3, junior)
        await running
        assert (junior.begun, senior.begun) == (["0"], [])


async def test_with_stop_when_done_the_workers_leave_and_then_the_manager() -> None:
    async with Plant(stop_when_done=True) as plant:
        hands = [await plant.hand(f"w{n}") for n in range(3)]
        await plant.complete(*tasks(6))
        async with asyncio.timeout(5):
            await plant.running
            await asyncio.gather(*(hand.running for hand in hands))
        assert plant.completed == ["default"]
        assert not plant.manager.state.workers.workers


async def test_a_manager_that_goes_on_serves_the_next_run() -> None:
    async with Plant() as plant:
        hand = await plant.hand("Ada")
        await plant.complete(*tasks(2), run="one")
        await plant.complete(*tasks(2), run="two")
        assert plant.completed == ["one", "two"]
        assert not plant.running.done()
        assert not hand.running.done()


async def test_a_worker_that_never_says_goodbye_does_not_keep_the_manager_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "STOP_SECONDS", 0.2)
    async with Plant(stop_when_done=True) as plant:
        await plant.hand("Ada", 9)
        await plant.meet("Ghost", 10)
        await plant.complete(*tasks(1))
        async with asyncio.timeout(5):
            await plant.running


async def test_a_stop_of_long_ago_does_not_send_the_next_start_of_a_worker_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits in the queue of one that died before it came."""
    monkeypatch.setattr(timings, "STOP_SECONDS", 0.1)
    async with Plant(stop_when_done=True) as first:
        victim = await first.hand("Victim", 3)
        await first.hand("Here", 9)
        await victim.die()
        await first.complete(*tasks(1, difficulty=9))
        await first.running
        async with Plant(broker=first.broker) as second:
            heir = await second.hand("Victim", 3)
            assert (await second.complete(*tasks(1))).has_succeeded
            assert not heir.running.done()


# --- readiness --------------------------------------------------------------------------------


async def test_a_manager_is_ready_once_each_of_its_consumers_has_brought_something() -> None:
    plant = Plant()
    ready = [plant.manager.is_ready]
    async with plant:
        ready.append(plant.manager.is_ready)
    ready.append(plant.manager.is_ready)
    assert ready == [False, True, False]


async def test_a_manager_that_waits_for_the_queues_of_another_is_not_ready() -> None:
    async with Plant() as first, MemoryTransport(first.broker) as way:
        store = MemoryStore()
        second = Manager(
            way,
            store,
            lambda: State(BestFit(), chance=lambda: 0.0, store=store.id),
            clock=loop_clock(),
            on_complete=first._on_complete,
        )
        running = asyncio.create_task(second.run())
        for _ in range(100):
            await asyncio.sleep(0.001)
            assert not second.is_ready
        first.manager.stop()
        await until(lambda: second.is_ready)
        assert second.is_leading
        second.stop()
        await running


async def test_a_manager_whose_consumers_bring_nothing_any_more_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Plant() as plant:
        assert plant.manager.is_ready
        monkeypatch.setattr(timings, "READY_WITHIN_SECONDS", 0.0)
        assert not plant.manager.is_ready


async def test_the_second_manager_of_a_broker_says_so_and_the_first_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "TAKE_OVER_SECONDS", 0.0)
    async with Plant() as first:
        async with Plant(broker=first.broker) as second:
            with pytest.raises(UsageError) as caught:
                await second.running
        assert str(caught.value) == (
            "another manager consumes skillq.manager.heartbeats on this broker; "
            "stop it, or use another vhost"
        )
        await first.hand("Ada")
        assert (await first.complete(*tasks(1))).has_succeeded


async def test_a_manager_takes_over_when_its_predecessor_leaves() -> None:
    async with Plant() as first:
        second = Plant(broker=first.broker)
        await second._stack.enter_async_context(second._way)
        running = asyncio.create_task(second.manager.run())
        await asyncio.sleep(0.05)
        assert not second.manager.is_leading
    await until(lambda: second.manager.is_leading)
    second.manager.stop()
    await running
    await second._stack.aclose()


@pytest.mark.parametrize("queue", CONSUMED_QUEUES)
async def test_a_manager_whose_queue_another_one_has_decides_no_more_and_leaves_with_one_line(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "STAND_BY_SECONDS", 0.05)
    monkeypatch.setattr(timings, "TAKE_OVER_SECONDS", 0.2)
    broker = MemoryBroker()
    wire = Fickle(broker)
    async with Plant(broker=broker, transport=wire) as plant:
        wire.lose(queue)
        await plant.voice.consume(queue, prefetch=1, exclusive=True)
        await until(lambda: not plant.manager.is_leading)
        assert not any(one.live for one in wire._consumers if one._queue.name != CONSUMED_QUEUES[0])
        with pytest.raises(Unreachable):
            await plant.manager.submit(submission(*tasks(1)))
        with pytest.raises(UsageError) as caught:
            async with asyncio.timeout(5):
                await plant.running
    assert str(caught.value) == (
        f"another manager consumes {queue} on this broker; stop it, or use another vhost"
    )


async def test_a_manager_whose_own_dead_connection_held_its_queue_for_a_while_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "STAND_BY_SECONDS", 0.05)
    broker = MemoryBroker()
    wire = Fickle(broker)
    async with Plant(broker=broker, transport=wire) as plant:
        count = Count(held=True)
        await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(3)))
        await until(lambda: count.begun)
        wire.lose(topology.MANAGER_HEARTBEATS)
        dead = await plant.voice.consume(topology.MANAGER_HEARTBEATS, prefetch=1, exclusive=True)
        await until(lambda: not plant.manager.is_leading)
        await dead.close()
        await until(lambda: plant.manager.is_leading)
        count.let_go()
        assert (await running).counts == {SUCCEEDED: 3}
        assert sorted(count.begun) == ["0", "1", "2"]


async def test_a_broker_that_comes_back_empty_gets_its_queues_and_a_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(timings, "QUEUE_CHECK_SECONDS", 0.02)
    async with Plant(leases=QUICK, lease=SHORT.model_copy(update={"dead_after": 5.0})) as plant:
        count = Count(held=True)
        hand = await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(3)))
        await until(lambda: count.begun)
        for queue in [*CONSUMED_QUEUES, topology.DEAD_LETTERS, topology.worker_queue("ada")]:
            plant.broker.delete_queue(queue)
        assert not hand.is_ready
        await until(lambda: hand.is_ready)
        count.let_go()
        assert (await running).counts == {SUCCEEDED: 3}
        assert (await plant.complete(*tasks(2), run="next")).has_succeeded


# --- submissions by another way ---------------------------------------------------------------


def submission(*of: Task) -> Submission:
    return Submission(submission_id="1", run="default", run_title="default", tasks=of)


async def test_a_submission_may_come_from_inside_and_is_answered() -> None:
    async with Plant() as plant:
        answer = await plant.manager.submit(submission(*tasks(2)))
        assert (answer.accepted, answer.known, answer.reason) == (2, 0, None)
        refused = await plant.manager.submit(
            submission(Task(id="x", difficulty=1, depends_on=("gone",)))
        )
        assert "depends on gone" in str(refused.reason)


async def test_a_submission_to_a_manager_that_has_left_is_told_so() -> None:
    async with Plant() as plant:
        plant.manager.stop()
        await plant.running
        async with asyncio.timeout(5):
            with pytest.raises(Unreachable, match="ask again"):
                await plant.manager.submit(submission(*tasks(1)))


async def test_a_manager_that_stops_tells_those_whose_submission_it_has_not_decided() -> None:
    plant = Plant()
    waiting = asyncio.create_task(plant.manager.submit(submission(*tasks(1))))
    plant.manager.stop()  # it leaves before its first round
    async with plant:
        async with asyncio.timeout(5):
            with pytest.raises(Unreachable, match="ask again"):
                await waiting


async def test_a_client_whose_manager_lost_its_store_has_its_run_done_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "CLIENT_SILENCE_SECONDS", 0.1)
    async with Plant() as first:
        count = Count(held=True)
        hand = await first.hand("Ada", 5, count)
        running = asyncio.create_task(first.complete(*tasks(2)))
        await until(lambda: count.begun)
        first.manager.stop()
        await first.running
        async with Plant(broker=first.broker) as second:
            await until(lambda: second.entry(hand.profile) is not None)
            count.let_go()
            assert (await running).counts == {SUCCEEDED: 2}
            assert second.completed == ["default"]


async def test_a_run_that_an_earlier_manager_ended_is_summed_up_once_when_it_is_submitted_again() -> (
    None
):
    async with Plant() as first:
        await first.hand("Ada")
        await first.complete(*tasks(2))
    async with Plant(store=first.store) as second:
        for _ in range(2):
            await second.complete(*tasks(2))
        assert second.completed == ["default"]
