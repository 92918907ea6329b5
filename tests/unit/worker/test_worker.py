"""The worker on a memory broker: each assignment is run once, each result arrives, and it leaves in order."""

import asyncio
import threading

import pytest

from skillq import timings, topology
from skillq.errors import UsageError
from skillq.messages import (
    Connect,
    Heartbeat,
    Outcome,
    Probe,
    Progress,
    Stop,
    encode,
)
from skillq.transport import Outgoing
from skillq.transport.dead_letters import QUEUE_HEADER, REASON_HEADER
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_worker import Handlers
from skillq_worker.execution.executor import HandlerExecutor
from skillq_worker.execution.simulation import Simulation
from skillq_worker.worker import Worker
from tests.support.virtual_time import loop_clock
from tests.unit.wire import Wire
from tests.unit.worker.bench import Bench, working
from tests.unit.worker.boss import SECONDS, Boss, Fickle, order, ref, until, who

# --- joining ---------------------------------------------------------------------------------


async def test_a_worker_asks_for_its_queue_until_it_is_there_and_then_says_that_it_is_ready(
    boss: Boss, bench: Bench
) -> None:
    async with MemoryTransport(boss.broker) as way:
        one = Worker(way, boss.worker, bench, clock=loop_clock(), grace=0)
        running = asyncio.create_task(one.run())
        asking = await boss.hears(Connect, 2)
        assert not any(connect.ready for connect in asking)
        assert not one.is_ready
        await boss.give_queue()
        await until(lambda: one.is_ready)
        await until(lambda: boss.all(Connect)[-1].ready)
        assert boss.all(Connect)[-1].worker == boss.worker
        one.stop()
        await running


async def test_a_worker_that_is_stopped_while_it_waits_for_a_manager_leaves_at_once(
    bench: Bench,
) -> None:
    async with MemoryTransport(MemoryBroker()) as way:  # nobody has declared anything
        one = Worker(way, who(), bench, clock=loop_clock(), grace=30)
        running = asyncio.create_task(one.run())
        await asyncio.sleep(0)
        one.stop()
        async with asyncio.timeout(1):
            await running
        assert not [t for t in asyncio.all_tasks() if t.get_name() in {"attach", "stop"}]


async def test_the_second_worker_of_a_name_says_so_and_leaves_while_the_first_goes_on(
    boss: Boss, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "TAKE_OVER_SECONDS", 0.2)
    async with working(boss, bench):
        async with MemoryTransport(boss.broker) as way:
            namesake = who("Ada", name="ada")
            second = Worker(way, namesake, bench, clock=loop_clock(), grace=0)
            with pytest.raises(UsageError) as caught:
                await second.run()
        assert str(caught.value) == (
            "a worker named 'Ada' is connected already; choose another --name"
        )
        assert all(said.worker == boss.worker for said in boss.all(Connect))
        await boss.assign(order())
        await bench.end()
        assert (await boss.has_results(1))[0].outcome is Outcome.SUCCEEDED


async def test_a_worker_takes_over_when_its_namesake_leaves_in_time(
    boss: Boss, bench: Bench
) -> None:
    async with MemoryTransport(boss.broker) as way:
        heir = Worker(way, who("Ada", name="ada"), bench, clock=loop_clock(), grace=0)
        async with working(boss, bench):
            running = asyncio.create_task(heir.run())
            await asyncio.sleep(0.1)
            assert not heir.is_ready
        await until(lambda: heir.is_ready)
        heir.stop()
        await running


async def test_a_worker_whose_queue_is_gone_is_not_ready_and_asks_for_it_until_it_is_there(
    boss: Boss, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "QUEUE_CHECK_SECONDS", 0.01)
    async with working(boss, bench) as (one, _):
        ready = [one.is_ready]
        heard = len(boss.all(Connect))
        boss.broker.delete_queue(topology.worker_queue("ada"))
        ready.append(one.is_ready)
        asking = (await boss.hears(Connect, heard + 2))[heard:]
        assert not any(connect.ready for connect in asking)
        ready.append(one.is_ready)
        await boss.give_queue()
        await until(lambda: one.is_ready)
        assert ready == [True, False, False]
        await boss.assign(order())
        await bench.end()
        assert (await boss.has_results(1))[0].outcome is Outcome.SUCCEEDED


async def test_a_worker_whose_own_dead_connection_held_its_queue_for_a_while_goes_on(
    boss: Boss, bench: Bench
) -> None:
    wire = Fickle(boss.broker)
    async with working(boss, bench, transport=wire) as (one, _):
        await boss.assign(order())
        await until(lambda: bench.begun)
        wire.lose(topology.worker_queue("ada"))
        dead = await boss.transport.consume(
            topology.worker_queue("ada"), prefetch=1, exclusive=True
        )
        await until(lambda: not one.is_ready)
        await dead.close()
        await until(lambda: one.is_ready)
        await boss.assign(order("b"))
        bench.end_all()
        assert {result.id for result in await boss.has_results(2)} == {"a", "b"}


async def test_a_worker_whose_namesake_took_over_leaves_and_says_so(
    boss: Boss, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "TAKE_OVER_SECONDS", 0.2)
    await boss.give_queue()
    async with Fickle(boss.broker) as wire:
        old = Worker(wire, boss.worker, bench, clock=loop_clock(), grace=0)
        running = asyncio.create_task(old.run())
        await until(lambda: old.is_ready)
        wire.lose(topology.worker_queue("ada"))
        namesake = await boss.transport.consume(
            topology.worker_queue("ada"), prefetch=1, exclusive=True
        )
        with pytest.raises(UsageError) as caught:
            async with asyncio.timeout(5):
                await running
        assert not old.is_ready
        assert namesake.live
    assert str(caught.value) == "a worker named 'Ada' is connected already; choose another --name"


# --- what should not have come ---------------------------------------------------------------

STRAYS = {
    "no json": (b"hello", "not a JSON object"),
    "another version": (
        b'{"type": "stop", "schema_version": 7}',
        "schema_version 7 is unknown; this release reads 1",
    ),
    "an unknown type": (b'{"type": "dance"}', "dance"),
    "a very long type": (b'{"type": "' + b"x" * 200_000 + b'"}', "xxx"),
    "a field is missing": (b'{"type": "cancel", "worker": "ada"}', "cancel.incarnation"),
    "no business here": (
        Outgoing.from_message(Probe()).body,
        "a probe message does not belong in a worker's queue",
    ),
}


@pytest.mark.parametrize("name", STRAYS)
async def test_what_cannot_be_read_is_parked_with_its_reason_and_everything_goes_on(
    boss: Boss, bench: Bench, name: str
) -> None:
    body, reason = STRAYS[name]
    async with working(boss, bench):
        stray = Outgoing(body, "stray", {"mine": "kept"}, message_id="7")
        await boss.transport.publish(topology.COMMANDS, "cancel.ada", stray)
        await boss.assign(order())
        await bench.end()
        await boss.has_results(1)
        (dead,) = boss.dead
    assert (dead.body, dead.message_id, dead.headers["mine"]) == (body, "7", "kept")
    assert reason in str(dead.headers[REASON_HEADER])
    assert len(str(dead.headers[REASON_HEADER])) <= 1000
    assert dead.headers[QUEUE_HEADER] == "skillq.worker.ada"


async def test_what_cannot_be_parked_yet_is_parked_later(boss: Boss, bench: Bench) -> None:
    wire = Wire(boss.broker)
    async with working(boss, bench, transport=wire):
        wire.fails = lambda key: key == "skillq.worker.ada" and len(wire.failed) < 3
        await boss.transport.publish(topology.COMMANDS, "stop.all", Outgoing(b"?", "stray"))
        await until(lambda: boss.dead)
        assert len(boss.dead) == 1


async def test_a_stop_that_was_meant_for_those_who_have_left_is_not_obeyed(
    boss: Boss, bench: Bench
) -> None:
    """It may wait in the queue for minutes; whoever starts next under the name has work to do."""
    async with working(boss, bench):
        await boss.stop(incarnations=("of-somebody-else",))
        await boss.cancel(ref(), store="old")
        await boss.assign(order())
        await until(lambda: bench.busy)
        await boss.cancel(ref(), store="old")
        await boss.assign(order("b"))
        await boss.hears(Heartbeat)
        assert bench.busy


async def test_unknown_fields_are_passed_over(boss: Boss, bench: Bench) -> None:
    """Services are deployed separately."""
    async with working(boss, bench) as (_, running):
        stop = Stop(incarnations=(boss.worker.incarnation,), mode="now")
        newer = Outgoing(encode(stop)[:-1] + b', "soon": true}', "stop")
        await boss.transport.publish(topology.COMMANDS, "stop.all", newer)
        await running
    assert not boss.dead


# --- heartbeats ------------------------------------------------------------------------------


async def test_heartbeats_tell_who_lives_what_it_holds_and_how_much_is_free(bench: Bench) -> None:
    async with Boss(who(slots=3)) as boss, working(boss, bench):
        await boss.assign(order())
        await until(lambda: boss.all(Heartbeat) and boss.all(Heartbeat)[-1].holds)
        last = boss.all(Heartbeat)[-1]
        assert (last.worker, last.holds, last.free_slots, last.draining) == (
            boss.worker,
            (ref(),),
            2,
            False,
        )
        bench.end_all()


async def test_a_lost_heartbeat_ends_nothing(boss: Boss, bench: Bench) -> None:
    wire = Wire(boss.broker)
    async with working(boss, bench, transport=wire):
        wire.fails = lambda key: key.startswith("heartbeat") and len(wire.failed) < 3
        await boss.hears(Heartbeat)
        assert len(wire.failed) == 3


@pytest.mark.parametrize("order_to_stop", [{"mode": "now"}, {"mode": "drain"}])
async def test_while_handlers_block_their_loop_heartbeats_go_on_and_a_stop_is_obeyed(
    boss: Boss, order_to_stop: dict[str, str]
) -> None:
    handlers = Handlers()
    free = threading.Event()

    @handlers.task
    async def block() -> str:
        free.wait(SECONDS)  # what a user should not do
        return "at last"

    profile = boss.worker.model_copy(update={"types": ("block",), "slots": 2})
    boss.worker = profile
    with HandlerExecutor(handlers) as executor:
        try:
            async with working(boss, executor, grace=20.0) as (_, running):
                await boss.assign(order(task_type="block"))
                await boss.hears(Progress)
                before = len(boss.all(Heartbeat))
                await until(lambda: len(boss.all(Heartbeat)) >= before + 5)
                await boss.stop(**order_to_stop)
                if order_to_stop["mode"] == "drain":
                    await until(lambda: any(said.draining for said in boss.all(Heartbeat)))
                    assert not running.done()
                    free.set()
                async with asyncio.timeout(SECONDS / 2):
                    await running
        finally:
            free.set()
    if order_to_stop["mode"] == "now":
        assert not boss.results
    else:
        assert boss.results[0].output == "at last"


# --- the simulation --------------------------------------------------------------------------


async def test_simulated_work_takes_difficulty_over_priority_and_fails_below_the_skill(
    boss: Boss,
) -> None:
    async with working(boss, Simulation(boss.worker, 0.01)):
        await boss.assign(
            order("well", difficulty=5, dependencies={"x": 1}),
            order("urgent", difficulty=5, priority=5),
            order("hard", difficulty=6),
            order("special", requires=["gpu"]),
        )
        await boss.has_results(4)
    ended = {result.id: result for result in boss.results}
    assert ended["well"].output == {"seconds": 0.05, "inputs": ["x"]}
    assert ended["urgent"].output == {"seconds": 0.01, "inputs": []}
    assert ended["hard"].error == "skill 5 is below difficulty 6"
    assert ended["special"].error == "specialty gpu is missing"


async def test_a_specialty_adds_two_to_the_skill(boss: Boss) -> None:
    expert = who("Ada", name="ada", specialties=["ocr"])
    boss.worker = expert
    async with working(boss, Simulation(expert, 0)):
        await boss.assign(order("a", difficulty=7, task_type="ocr"))
        await boss.assign(order("b", difficulty=8, task_type="ocr"))
        await boss.assign(order("c", difficulty=6, task_type="speech"))
        await boss.has_results(3)
    assert boss.outcomes == {
        "a": Outcome.SUCCEEDED,
        "b": Outcome.FAILED,
        "c": Outcome.FAILED,
    }
