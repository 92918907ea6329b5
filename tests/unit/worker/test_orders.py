"""What a worker is told to do, and what it tells of that, lost and doubled messages included."""

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
from tests.support.virtual_time import loop_clock
from tests.unit.wire import Wire
from tests.unit.worker.bench import Bench, working
from tests.unit.worker.boss import STORE, Boss, order, ref, until, who

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
        one = Worker(way, boss.worker, bench, clock=loop_clock(), grace=0)
        running = asyncio.create_task(one.run())
        await asyncio.sleep(0.8)  # the next question but one comes in more than a second
        async with late:
            await late.declare(topology.MANAGER)
            reports = await late.consume(topology.MANAGER_REPORTS, prefetch=10)
            async with asyncio.timeout(5):
                await reports.batch()
            asked = asyncio.get_running_loop().time()
            await late.declare(topology.worker_topology("ada"))
            await until(lambda: one.is_ready)
            assert asyncio.get_running_loop().time() - asked < 0.5
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
        began = asyncio.get_running_loop().time()
        await boss.stop(mode="now")
        await running
        assert asyncio.get_running_loop().time() - began < 2
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
    monkeypatch.setattr(timings, "LEAVE_SECONDS", 0.1)
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
