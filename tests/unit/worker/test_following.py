"""What waits for a slot begins where an attempt has ended, before the worker has heard of that: all promises hold."""

import asyncio
from functools import partial

import pytest

from skillq.messages import Outcome, Progress, TaskResults
from skillq_worker.execution.executor import CancelJob, Job
from tests.support.virtual_time import advance
from tests.unit.worker.bench import BRIEF, working
from tests.unit.worker.boss import Boss, order, ref, until, who


class Relay:
    """An executor whose attempts end when the test says so; and the worker hears it when the test says so."""

    types = None

    def __init__(self) -> None:
        self.begun: list[Job] = []
        self.called_off: list[str] = []
        self._ended: list[Job] = []
        self.leaves = False  # to the worker what is to follow

    def start(self, job: Job) -> CancelJob:
        self.begun.append(job)
        return partial(self._call_off, job)

    def _call_off(self, job: Job) -> bool:
        if job in self._ended:
            return False
        self.called_off.append(job.assignment.id)
        asyncio.get_running_loop().call_soon(job.on_done, None, asyncio.CancelledError())
        return True

    def end(self, number: int) -> Job | None:
        job = self.begun[number]
        self._ended.append(job)
        following = job.take_next()
        if following is not None and not self.leaves:
            following.on_started(self.start(following))
        return following

    def hear(self, number: int, error: BaseException | None = None) -> None:
        self.begun[number].on_done(None if error else "well", error)

    @property
    def ids(self) -> list[str]:
        return [job.assignment.id for job in self.begun]


@pytest.fixture
def relay() -> Relay:
    return Relay()


async def test_the_next_one_begins_in_the_order_in_which_it_came_and_all_are_told(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay):
        await boss.assign(*(order(id) for id in "abc"))
        await until(lambda: relay.begun)
        for number in range(3):
            relay.end(number)
        assert relay.ids == ["a", "b", "c"]
        for number in range(3):
            relay.hear(number)
        await boss.has_results(3)
    assert [(result.id, result.outcome) for result in boss.results] == [
        (id, Outcome.SUCCEEDED) for id in "abc"
    ]


async def test_how_long_an_attempt_took_is_counted_to_its_end_not_to_when_that_was_heard(
    boss: Boss, relay: Relay
) -> None:
    """The manager gives more ahead, the shorter tasks are."""
    async with working(boss, relay):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        relay.end(0)
        await asyncio.sleep(0.05)
        relay.end(1)
        relay.hear(0)
        relay.hear(1)
        a, b = await boss.has_results(2)
    assert a.started_at and a.finished_at and b.started_at and b.finished_at  # noqa: PT018
    assert a.started_at <= a.finished_at <= b.started_at
    assert b.finished_at - b.started_at > 0.04


async def test_what_was_called_off_before_it_was_heard_to_have_begun_is_ended_then_and_never_told(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay) as (one, _):
        await boss.assign(order("a"), order("b"), order("c"))
        await until(lambda: relay.begun)
        relay.end(0)
        await boss.cancel(ref("b"))
        await until(lambda: ("default", "b", 1) not in one._held_attempts)
        assert not relay.called_off
        relay.hear(0)
        assert relay.called_off == ["b"]
        await until(lambda: relay.ids == ["a", "b", "c"])
        await boss.hears(Progress)
        relay.end(2)
        relay.hear(2)
        await boss.has_results(2)
    assert set(boss.outcomes) == {"a", "c"}
    assert {item.id for said in boss.all(Progress) for item in said.items} == {"c"}


async def test_what_is_called_off_when_it_has_ended_is_not_told_and_its_slot_goes_on(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay) as (one, _):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        relay.end(0)
        await boss.cancel(ref("a"))
        await until(lambda: ("default", "a", 1) not in one._held_attempts)
        relay.hear(0)
        relay.end(1)
        relay.hear(1)
        await boss.has_results(1)
    assert not relay.called_off
    assert set(boss.outcomes) == {"b"}


async def test_what_failed_in_time_has_not_timed_out_though_that_was_heard_too_late(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay):
        await boss.assign(order("a", timeout=0.02))
        await until(lambda: relay.begun)
        relay.end(0)
        await asyncio.sleep(0.05)
        relay.hear(0, ValueError("no such page"))
        (result,) = await boss.has_results(1)
    assert (result.outcome, result.error) == (Outcome.FAILED, "ValueError: no such page")


async def test_the_time_of_what_began_unheard_is_counted_from_its_begin(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay):
        await boss.assign(order("a"), order("b", timeout=1000.0))
        await until(lambda: relay.begun)
        relay.end(0)
        relay.begun[1].started_at -= 999.99  # type: ignore[attr-defined]
        relay.hear(0)
        await until(lambda: relay.called_off == ["b"])
        results = await boss.has_results(2)
    assert [result.outcome for result in results] == [Outcome.SUCCEEDED, Outcome.TIMED_OUT]


async def test_what_is_told_of_a_sync_handler_counts_from_when_it_begins(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        relay.leaves = True
        relay.end(0)
        await asyncio.sleep(0.05)
        relay.hear(0)
        await until(lambda: len(relay.begun) == 2)
        relay.end(1)
        relay.hear(1)
        a, b = await boss.has_results(2)
    assert a.finished_at and b.started_at  # noqa: PT018
    assert b.started_at - a.finished_at > 0.04


async def test_what_has_begun_unheard_is_not_handed_back(boss: Boss, relay: Relay) -> None:
    async with working(boss, relay) as (one, running):
        await boss.assign(order("a"), order("b"), order("c"))
        await until(lambda: relay.begun)
        relay.end(0)
        await boss.recall(ref("b"), ref("c"))
        await boss.has_results(1)
        one.stop()
        await asyncio.sleep(0.01)
        relay.hear(0)
        relay.end(1)
        relay.hear(1)
        await running
    assert boss.outcomes == {
        "a": Outcome.SUCCEEDED,
        "b": Outcome.SUCCEEDED,
        "c": Outcome.RETURNED,
    }


async def test_what_has_begun_unheard_for_another_store_is_ended_and_nothing_is_told_of_it(
    boss: Boss, relay: Relay
) -> None:
    """The new store's attempt has the same number."""
    async with working(boss, relay) as (one, _):
        await boss.assign(order("a"), order("b"), store="old")
        await until(lambda: relay.begun)
        relay.end(0)
        await boss.assign(order("b"), store="new")
        await until(lambda: one._reporter.store == "new")
        relay.hear(0)
        assert relay.called_off == ["b"]
        await until(lambda: relay.ids == ["a", "b", "b"])
        await boss.hears(Progress)
        relay.end(2)
        relay.hear(2)
        await boss.has_results(1)
    assert {said.store for said in boss.all(Progress)} == {"new"}
    assert [[result.id for result in said.results] for said in boss.all(TaskResults)] == [["b"]]


async def test_a_worker_that_is_told_to_leave_at_once_ends_what_has_begun_unheard(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay) as (one, running):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        relay.end(0)
        one.stop(now=True)
        await asyncio.sleep(0.01)
        assert not running.done()
        relay.hear(0)
        await running
    assert relay.called_off == ["b"]
    assert not boss.results


async def test_nothing_follows_once_the_lease_is_too_old_though_the_worker_stands_still(
    relay: Relay,
) -> None:
    async with Boss(who(lease=BRIEF)) as boss, working(boss, relay):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        advance(0.3)  # the worker looks at no clock, and sends no heartbeat
        assert relay.end(0) is None
        relay.hear(0)
        await until(lambda: relay.ids == ["a", "b"])
        relay.end(1)
        relay.hear(1)
        await boss.has_results(2)
