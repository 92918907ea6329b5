"""Attempts that wait for a slot: begun in order, handed back when they are recalled, and cheap."""

import asyncio

import pytest

from skillq import timings
from skillq.messages import Disconnect, Heartbeat, Outcome, Progress
from skillq_worker import worker
from tests.unit.wire import Wire
from tests.unit.worker.bench import BRIEF, Bench, working
from tests.unit.worker.boss import Boss, order, ref, until, who


async def test_what_waits_begins_in_the_order_in_which_it_came(boss: Boss, bench: Bench) -> None:
    ids = [f"t{n}" for n in range(20)]
    async with working(boss, bench):
        await boss.assign(*(order(id) for id in ids[:5]))
        for id in ids[5:]:
            await boss.assign(order(id))
        bench.end_all()
        await boss.has_results(20)
    assert bench.begun == [(id, 1) for id in ids]
    assert bench.most_busy == 1


async def test_a_thousand_that_wait_are_no_thousand_tasks_of_the_loop(
    boss: Boss, bench: Bench
) -> None:
    async with working(boss, bench):
        before = len(asyncio.all_tasks())
        await boss.assign(*(order(f"t{n}") for n in range(1000)))
        await until(lambda: bench.begun)
        heartbeat = (await boss.hears(Heartbeat, len(boss.all(Heartbeat)) + 2))[-1]
        assert len(asyncio.all_tasks()) < before + 10
        assert len(heartbeat.holds) == 1000
        assert heartbeat.free_slots == 0
        bench.end_all()
        await boss.has_results(1000)
    assert len(bench.begun) == 1000


async def test_what_is_recalled_is_handed_back_unless_it_has_begun(
    boss: Boss, bench: Bench
) -> None:
    async with working(boss, bench) as (one, _):
        await boss.assign(*(order(id) for id in "abc"))
        await until(lambda: bench.begun)
        await boss.recall(ref("a"), ref("c"))
        (returned,) = await boss.has_results(1)
        assert (returned.id, returned.outcome) == ("c", Outcome.RETURNED)
        assert not one.is_draining
        await boss.assign(order("d"))
        bench.end_all()
        await boss.has_results(4)
    assert bench.begun == [("a", 1), ("b", 1), ("d", 1)]
    assert not bench.aborted
    assert {id: outcome.value for id, outcome in boss.outcomes.items()} == {
        "a": "succeeded", "b": "succeeded", "c": "returned", "d": "succeeded",
    }  # fmt: skip


async def test_what_was_handed_back_and_is_assigned_once_more_is_handed_back_again(
    boss: Boss, bench: Bench
) -> None:
    """The manager has not heard it, and sends the same attempt again."""
    async with working(boss, bench):
        await boss.assign(order("a"), order("b"))
        await until(lambda: bench.begun)
        await boss.recall(ref("b"))
        await boss.has_results(1)
        await boss.assign(order("b"))
        await boss.assign(order("b", attempt=2))
        await boss.has_results(2)
        bench.end_all()
        await boss.has_results(4)
    assert [(r.id, r.attempt, r.outcome) for r in boss.results[:2]] == [
        ("b", 1, Outcome.RETURNED)
    ] * 2
    assert bench.begun == [("a", 1), ("b", 2)]


async def test_a_recall_for_somebody_else_or_of_what_is_not_there_is_passed_over(
    boss: Boss, bench: Bench
) -> None:
    async with working(boss, bench):
        await boss.assign(order("a"), order("b"))
        await boss.recall(ref("b"), incarnation="before")
        await boss.recall(ref("b"), store="old")
        await boss.recall(ref("b", attempt=2), ref("nobody-knows"))
        bench.end_all()
        await boss.has_results(2)
    assert set(boss.outcomes.values()) == {Outcome.SUCCEEDED}


async def test_what_waits_is_called_off_and_never_begins(boss: Boss, bench: Bench) -> None:
    async with working(boss, bench):
        await boss.assign(*(order(id) for id in "abc"))
        await until(lambda: bench.begun)
        await boss.cancel(ref("b"))
        bench.end_all()
        await boss.has_results(2)
    assert bench.begun == [("a", 1), ("c", 1)]
    assert set(boss.outcomes) == {"a", "c"}


async def test_slots_that_were_aborted_go_on_with_what_waits(bench: Bench) -> None:
    async with Boss(who(slots=3)) as boss, working(boss, bench):
        await boss.assign(*(order(f"t{n}") for n in range(8)))
        await until(lambda: bench.busy == 3)
        await boss.cancel(*(ref(f"t{n}") for n in range(3)))
        await until(lambda: len(bench.begun) == 6)
        assert bench.most_busy == 3
        bench.end_all()
        await boss.has_results(5)


async def test_nothing_that_waits_begins_while_the_lease_is_not_certain(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "LEASE_CHECK_SECONDS", 0.01)
    async with (
        Boss(who(lease=BRIEF)) as boss,
        working(boss, bench, transport=(wire := Wire(boss.broker))) as (one, _),
    ):
        await boss.assign(order("a"), order("b"))
        await until(lambda: bench.begun)
        wire.fails = lambda key: key.startswith("heartbeat")
        await until(lambda: not one._lease.may_start.is_set())
        await bench.end("a")
        await boss.has_results(1)
        await boss.assign(order("c"))
        await until(lambda: len(one._held_attempts) == 2)
        assert bench.begun == [("a", 1)]
        wire.fails = lambda _: False
        bench.end_all()
        await boss.has_results(3)
    assert bench.begun == [("a", 1), ("b", 1), ("c", 1)]


async def test_a_worker_that_may_begin_nothing_still_hands_back_and_leaves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "LEASE_CHECK_SECONDS", 0.01)
    async with (
        Boss(who(lease=BRIEF)) as boss,
        working(boss, bench, transport=(wire := Wire(boss.broker))) as (one, running),
    ):
        wire.fails = lambda key: key.startswith("heartbeat")
        await until(lambda: not one._lease.may_start.is_set())
        await boss.assign(order("a"), order("b"))
        await until(lambda: len(one._held_attempts) == 2)
        one.stop()
        async with asyncio.timeout(2):
            await running
    assert boss.outcomes == {"a": Outcome.RETURNED, "b": Outcome.RETURNED}
    assert isinstance(boss.heard[-1], Disconnect)
    assert not bench.begun


async def test_more_than_are_remembered_may_wait_and_none_is_made_twice(
    boss: Boss, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_MAX_KNOWN_TASKS", 2)
    orders = [order(f"t{n}") for n in range(9)]
    async with working(boss, bench):
        await boss.assign(*orders)
        await boss.assign(*orders)
        bench.end_all()
        await boss.has_results(9)
    assert bench.begun == [(f"t{n}", 1) for n in range(9)]


async def test_what_ends_at_once_is_told_by_its_end_alone_and_what_goes_on_by_its_start_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "BRIEF_ATTEMPT_SECONDS", 0.3)
    async with Boss(who(slots=2)) as boss, working(boss, bench):
        await boss.assign(order("long"), order("brief"))
        await bench.end("brief")
        await boss.has_results(1)
        await until(lambda: any(isinstance(message, Progress) for message in boss.heard))
        bench.end_all()
        await boss.has_results(2)
    told = [
        item.id for message in boss.heard if isinstance(message, Progress) for item in message.items
    ]
    assert told == ["long"]
