"""The worker on a memory broker: each assignment is run once, each result arrives, and it leaves in order."""

import asyncio
import time

import pytest

from skillq import topology
from skillq.clock import steady_clock
from skillq.errors import UsageError
from skillq.messages import (
    Connect,
    Disconnect,
    Heartbeat,
    Outcome,
    Probe,
    Progress,
    Stop,
    TaskResults,
    encode,
)
from skillq.transport import Outgoing
from skillq.transport.base import QUEUE_HEADER, REASON_HEADER
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_worker import Handlers, worker
from skillq_worker.executor import HandlerExecutor
from skillq_worker.simulation import Simulation
from skillq_worker.worker import Worker
from tests.unit.worker.bench import Bench, Wire, working
from tests.unit.worker.boss import STORE, Boss, Fickle, order, ref, until, who

# --- joining ---------------------------------------------------------------------------------


async def test_a_worker_asks_for_its_queue_until_it_is_there_and_then_says_that_it_is_ready(
    boss: Boss, bench: Bench
) -> None:
    async with MemoryTransport(boss.broker) as way:
        one = Worker(way, boss.worker, bench, clock=steady_clock(), grace=0)
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
        one = Worker(way, who(), bench, clock=steady_clock(), grace=30)
        running = asyncio.create_task(one.run())
        await asyncio.sleep(0)
        one.stop()
        async with asyncio.timeout(1):
            await running
        assert not [t for t in asyncio.all_tasks() if t.get_name() in {"attach", "stop"}]


async def test_the_second_worker_of_a_name_says_so_and_leaves_while_the_first_goes_on(
    boss: Boss, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TAKE_OVER_SECONDS", 0.2)
    async with working(boss, bench):
        async with MemoryTransport(boss.broker) as way:
            namesake = who("Ada", name="ada")
            second = Worker(way, namesake, bench, clock=steady_clock(), grace=0)
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
        heir = Worker(way, who("Ada", name="ada"), bench, clock=steady_clock(), grace=0)
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
    monkeypatch.setattr(worker, "ATTEND_SECONDS", 0.01)
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
    monkeypatch.setattr(worker, "TAKE_OVER_SECONDS", 0.2)
    await boss.give_queue()
    async with Fickle(boss.broker) as wire:
        old = Worker(wire, boss.worker, bench, clock=steady_clock(), grace=0)
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


# --- assignments -----------------------------------------------------------------------------


async def test_an_assignment_is_begun_reported_run_and_reported(boss: Boss, bench: Bench) -> None:
    async with working(boss, bench):
        await boss.assign(order())
        (begun,) = await boss.hears(Progress)
        assert [(i.run, i.id, i.attempt) for i in begun.items] == [("default", "a", 1)]
        assert not boss.results
        await bench.end()
        (result,) = await boss.has_results(1)
    assert (result.outcome, result.output, result.attempt) == (Outcome.SUCCEEDED, "a", 1)
    assert result.started_at is not None
    assert result.finished_at is not None
    assert result.started_at <= result.finished_at


async def test_every_report_names_the_worker_its_incarnation_and_the_store_it_answers(
    boss: Boss, bench: Bench
) -> None:
    """The manager counts nothing that comes without them."""
    async with working(boss, bench):
        await boss.assign(order())
        await bench.end()
        await boss.has_results(1)
        reports = [*boss.all(Progress), *boss.all(TaskResults)]
    for said in reports:
        assert isinstance(said, Progress | TaskResults)
        assert (said.worker, said.incarnation, said.store) == (
            "ada",
            boss.worker.incarnation,
            STORE,
        )


async def test_an_assignment_that_comes_twice_is_run_once(boss: Boss, bench: Bench) -> None:
    async with working(boss, bench):
        await boss.assign(order())
        await boss.assign(order(), order("b"))
        await bench.end()
        await boss.has_results(1)
        await boss.assign(order())  # after its end, too
        await bench.end("b")
        await boss.has_results(2)
    assert bench.begun == [("a", 1), ("b", 1)]
    assert set(boss.outcomes) == {"a", "b"}


async def test_an_attempt_that_was_overtaken_is_not_run(boss: Boss, bench: Bench) -> None:
    bench.end_all()
    async with working(boss, bench):
        await boss.assign(order(attempt=2))
        await boss.has_results(1)
        await boss.assign(order(attempt=1))
        await boss.assign(order(attempt=3))
        await boss.has_results(2)
    assert bench.begun == [("a", 2), ("a", 3)]


async def test_an_assignment_to_a_dead_namesake_is_passed_over(boss: Boss, bench: Bench) -> None:
    bench.end_all()
    async with working(boss, bench):
        await boss.assign(order("old"), incarnation="before")
        await boss.cancel(ref("new"), incarnation="before")
        await boss.assign(order("new"))
        await boss.has_results(1)
    assert bench.begun == [("new", 1)]


async def test_no_more_attempts_run_at_a_time_than_there_are_slots(bench: Bench) -> None:
    async with Boss(who(slots=3)) as boss, working(boss, bench):
        await boss.assign(*(order(str(n)) for n in range(10)))
        await until(lambda: bench.busy == 3)
        bench.end_all()
        await boss.has_results(10)
    assert bench.most_busy == 3
    assert sorted(bench.begun) == [(str(n), 1) for n in range(10)]


async def test_another_store_s_attempts_void_those_of_the_old(boss: Boss, bench: Bench) -> None:
    """A manager that lost its store numbers attempts from 1 again."""
    async with working(boss, bench):
        await boss.assign(order(), store="old")
        await until(lambda: bench.begun)
        await boss.assign(order(), store="new")
        await until(lambda: len(bench.begun) == 2)
        assert bench.aborted == [("a", 1)]
        bench.end_all()
        await boss.has_results(1)
    assert [report.store for report in boss.all(TaskResults)] == ["new"]


async def test_an_attempt_of_the_new_store_can_be_cancelled_as_any_other(
    boss: Boss, bench: Bench
) -> None:
    """It has the number of an old one, which ends later than it begins."""
    async with working(boss, bench):
        await boss.assign(order(), store="old")
        await until(lambda: bench.busy)
        await boss.assign(order(), store="new")
        await until(lambda: len(bench.begun) == 2)
        await boss.cancel(ref(), store="new")
        await until(lambda: not bench.busy)
    assert bench.aborted == [("a", 1), ("a", 1)]


async def test_a_result_of_the_old_store_is_never_sent_as_one_of_the_new(bench: Bench) -> None:
    """Not even one that was about to be sent when the broker went away."""
    async with Boss(who(slots=2)) as boss:
        wire = Wire(boss.broker)
        async with working(boss, bench, transport=wire):
            wire.fails = lambda key: key.startswith("progress")
            await boss.assign(order("a"), order("b"), store="old")
            await until(lambda: len(bench.begun) == 2)
            await until(lambda: wire.failed)
            await bench.end("a")  # waits behind the report that fails
            await boss.assign(order("a"), store="new")
            await until(lambda: len(bench.begun) == 3)
            wire.fails = lambda _: False
            bench.end_all()
            await boss.has_results(1)
            await until(lambda: any(r.store == "new" for r in boss.all(TaskResults)))
        new = [
            r for report in boss.all(TaskResults) if report.store == "new" for r in report.results
        ]
        assert len(new) == 1


# --- orders ----------------------------------------------------------------------------------


async def test_a_cancelled_attempt_ends_is_held_no_longer_and_frees_its_slot(
    boss: Boss, bench: Bench
) -> None:
    async with working(boss, bench):
        await boss.assign(order("a"), order("b"))
        await until(lambda: bench.begun == [("a", 1)])
        await boss.cancel(ref("a"))
        await until(lambda: bench.begun == [("a", 1), ("b", 1)])
        assert bench.aborted == [("a", 1)]
        await until(lambda: boss.all(Heartbeat) and boss.all(Heartbeat)[-1].holds == (ref("b"),))
        await bench.end("b")
        await boss.has_results(1)
    assert boss.outcomes == {"b": Outcome.SUCCEEDED}


async def test_told_to_drain_it_finishes_what_runs_and_hands_back_what_has_not_begun(
    boss: Boss, bench: Bench
) -> None:
    async with working(boss, bench) as (_, running):
        await boss.assign(order("a"), order("b"))
        await until(lambda: bench.begun)
        await boss.stop()
        await boss.has_results(1)  # at once, while the other goes on
        assert boss.outcomes == {"b": Outcome.RETURNED}
        await boss.assign(order("c"))
        await boss.has_results(2)
        assert boss.outcomes["c"] is Outcome.RETURNED
        assert not running.done()
        await bench.end("a")
        await running
    assert boss.outcomes["a"] is Outcome.SUCCEEDED
    assert bench.begun == [("a", 1)]
    assert isinstance(boss.heard[-1], Disconnect)


async def test_draining_is_said_in_its_heartbeats(boss: Boss, bench: Bench) -> None:
    async with working(boss, bench):
        await boss.assign(order())
        await until(lambda: bench.busy)
        await boss.stop()
        await until(lambda: boss.all(Heartbeat) and boss.all(Heartbeat)[-1].draining)
        assert boss.all(Heartbeat)[-1].holds == (ref(),)
        bench.end_all()


async def test_that_it_drains_is_said_at_once(bench: Bench) -> None:
    seldom = who(lease={"heartbeat": 60.0})
    async with Boss(seldom) as boss, working(boss, bench):
        await boss.assign(order())
        await until(lambda: bench.busy)
        await boss.stop()
        (heartbeat,) = await boss.hears(Heartbeat)
        assert heartbeat.draining
        bench.end_all()


async def test_a_worker_that_came_before_its_manager_joins_soon_after_it_is_there(
    boss: Boss, bench: Bench
) -> None:
    """It asks ever more seldom; but when its question was taken, the queue is there at once."""
    async with MemoryTransport(MemoryBroker()) as way:
        late = MemoryTransport(way._broker)
        one = Worker(way, boss.worker, bench, clock=steady_clock(), grace=0)
        running = asyncio.create_task(one.run())
        await asyncio.sleep(0.8)  # the next question but one comes in more than a second
        async with late:
            await late.declare(topology.MANAGER)
            reports = await late.consume(topology.MANAGER_REPORTS, prefetch=10)
            async with asyncio.timeout(5):
                await reports.batch()
            asked = time.monotonic()
            await late.declare(topology.worker_topology("ada"))
            await until(lambda: one.is_ready)
            assert time.monotonic() - asked < 0.5
            one.stop()
            await running


async def test_what_is_not_finished_within_the_grace_is_given_up(boss: Boss, bench: Bench) -> None:
    async with working(boss, bench, grace=0.05) as (one, running):
        await boss.assign(order())
        await until(lambda: bench.busy)
        one.stop()
        await running
    assert bench.aborted == [("a", 1)]
    assert not boss.results
    assert isinstance(boss.heard[-1], Disconnect)


async def test_told_to_stop_now_it_gives_up_what_runs_and_says_goodbye(
    boss: Boss, bench: Bench
) -> None:
    async with working(boss, bench) as (_, running):
        await boss.assign(order())
        await until(lambda: bench.busy)
        began = time.monotonic()
        await boss.stop(mode="now")
        await running
        assert time.monotonic() - began < 2
    assert bench.aborted == [("a", 1)]
    goodbye = boss.heard[-1]
    assert isinstance(goodbye, Disconnect)
    assert goodbye.incarnation == boss.worker.incarnation


async def test_a_second_order_to_stop_shortens_the_grace_of_the_first(
    boss: Boss, bench: Bench
) -> None:
    """As Ctrl-C twice: the first waits for what runs, the second does not."""
    async with working(boss, bench) as (one, running):
        await boss.assign(order())
        await until(lambda: bench.busy)
        one.stop()
        await until(lambda: boss.all(Heartbeat) and boss.all(Heartbeat)[-1].draining)
        one.stop(now=True)
        async with asyncio.timeout(2):
            await running
    assert bench.aborted == [("a", 1)]


async def test_a_worker_whose_broker_never_answers_still_leaves(
    boss: Boss, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GOODBYE_SECONDS", 0.1)
    wire = Wire(boss.broker)
    async with working(boss, bench, transport=wire) as (one, running):
        wire.fails = lambda _: True
        await boss.assign(order())
        await bench.end()
        one.stop()
        async with asyncio.timeout(2):
            await running


# --- results are kept ------------------------------------------------------------------------


async def test_a_result_is_held_until_the_broker_has_confirmed_it_and_sent_again(
    boss: Boss, bench: Bench
) -> None:
    wire = Wire(boss.broker)
    async with working(boss, bench, transport=wire):
        wire.fails = lambda key: key.startswith("result")
        await boss.assign(order())
        await bench.end()
        await until(lambda: wire.failed.count("result.ada") >= 3)
        heartbeats = len(boss.all(Heartbeat))
        await until(lambda: len(boss.all(Heartbeat)) > heartbeats)
        assert boss.all(Heartbeat)[-1].holds == (ref(),), "the lease goes on"
        assert not boss.results
        wire.fails = lambda _: False
        await boss.has_results(1)
        await until(lambda: not boss.all(Heartbeat)[-1].holds)
    assert len(boss.results) == 1


async def test_results_that_gathered_while_the_broker_was_away_come_together(bench: Bench) -> None:
    async with Boss(who(slots=20)) as boss:
        wire = Wire(boss.broker)
        async with working(boss, bench, transport=wire):
            wire.fails = lambda key: not key.startswith("heartbeat")
            await boss.assign(*(order(str(n)) for n in range(20)))
            await until(lambda: len(bench.begun) == 20)
            bench.end_all()
            await until(lambda: wire.failed and not bench.busy)
            wire.fails = lambda _: False
            await boss.has_results(20)
        assert sorted(boss.outcomes) == sorted(str(n) for n in range(20))
        assert len(boss.all(TaskResults)) <= 2


async def test_a_drain_waits_for_the_last_result_to_be_confirmed(boss: Boss, bench: Bench) -> None:
    wire = Wire(boss.broker)
    async with working(boss, bench, transport=wire) as (one, running):
        wire.fails = lambda key: key.startswith("result") and wire.failed.count(key) < 5
        await boss.assign(order())
        await until(lambda: bench.busy)
        one.stop()
        await bench.end()
        await running
    said = [
        type(message) for message in boss.heard if isinstance(message, TaskResults | Disconnect)
    ]
    assert said == [TaskResults, Disconnect]


async def test_a_connect_that_is_not_confirmed_is_said_again(boss: Boss, bench: Bench) -> None:
    wire = Wire(boss.broker)
    wire.fails = lambda key: key.startswith("connect") and len(wire.failed) < 3
    async with working(boss, bench, transport=wire):
        assert wire.failed == ["connect.ada"] * 3
        assert [said.ready for said in await boss.hears(Connect)] == [True]


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
        Outgoing.of(Probe()).body,
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

    @handlers.task
    async def block() -> str:
        time.sleep(1.0)  # noqa: ASYNC251 - what a user should not do
        return "at last"

    profile = boss.worker.model_copy(update={"types": ("block",), "slots": 2})
    boss.worker = profile
    with HandlerExecutor(handlers) as executor:
        async with working(boss, executor, grace=20.0) as (_, running):
            began = time.monotonic()
            await boss.assign(order(task_type="block"))
            await boss.hears(Progress)
            before = len(boss.all(Heartbeat))
            await until(lambda: len(boss.all(Heartbeat)) >= before + 5)
            await boss.stop(**order_to_stop)
            await running
            took = time.monotonic() - began
    if order_to_stop["mode"] == "now":
        assert took < 0.9
        assert not boss.results
    else:
        assert took >= 1.0
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
