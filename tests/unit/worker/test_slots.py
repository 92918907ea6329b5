"""Slots: what begins when, and when nothing waits for one any more."""

import asyncio

import pytest

from skillq.messages import TaskAssignment
from skillq_worker.slots import Attempt, Slots
from tests.unit.worker.boss import order

A, B, C = (("default", id, 1) for id in "abc")


class Running:
    """An attempt that goes on until the test says that it is over."""

    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Bench:
    """One slot, and what has begun in it."""

    def __init__(self) -> None:
        self.begun: list[Attempt] = []
        self.running: list[Running] = []
        self.may_begin = asyncio.Event()
        self.may_begin.set()
        self.slots = Slots(1, self._begin, self.may_begin)

    def _begin(self, attempt: Attempt, task: TaskAssignment) -> Running:
        self.begun.append(attempt)
        self.running.append(Running())
        return self.running[-1]

    def over(self, attempt: Attempt) -> None:
        self.slots.over(attempt, self.running[self.begun.index(attempt)])


@pytest.fixture
async def bench() -> Bench:
    """An attempt has begun; another one waits for it."""
    bench = Bench()
    bench.slots.add(A, order("a"))
    await asyncio.sleep(0)
    assert bench.slots.all_begun.is_set()
    bench.slots.add(B, order("b"))
    await asyncio.sleep(0)
    assert bench.begun == [A]
    return bench


async def test_an_attempt_waits_until_a_slot_is_free(bench: Bench) -> None:
    assert not bench.slots.all_begun.is_set()
    bench.over(A)
    assert bench.begun == [A, B]
    assert bench.slots.all_begun.is_set()


async def test_what_was_aborted_keeps_its_slot_until_it_is_over(bench: Bench) -> None:
    assert bench.slots.abort(A)
    assert bench.running[0].is_cancelled
    await asyncio.sleep(0)
    assert bench.begun == [A]
    assert (bench.slots.running, bench.slots.free) == (1, 0)
    bench.over(A)
    assert bench.begun == [A, B]


async def test_what_is_over_or_was_aborted_cannot_be_aborted(bench: Bench) -> None:
    bench.over(A)
    assert not bench.slots.abort(A)
    assert bench.slots.abort(B)
    assert not bench.slots.abort(B)


async def test_an_attempt_that_ends_late_leaves_one_of_the_same_number_alone(bench: Bench) -> None:
    """Another store's: it numbers attempts from 1 again."""
    assert bench.slots.take_back(B)
    assert bench.slots.abort(A)
    bench.slots.add(A, order("a"))
    bench.over(A)
    assert bench.begun == [A, A]
    assert bench.slots.abort(A)
    assert bench.running[1].is_cancelled


async def test_what_is_taken_back_in_the_turn_in_which_it_came_never_begins(bench: Bench) -> None:
    assert bench.slots.take_back(B)
    bench.over(A)
    bench.slots.add(C, order("c"))
    assert bench.slots.take_back(C)
    await asyncio.sleep(0)
    assert bench.begun == [A]


async def test_nothing_begins_until_it_may(bench: Bench) -> None:
    bench.may_begin.clear()
    bench.over(A)
    assert bench.begun == [A]
    bench.may_begin.set()
    bench.slots.fill()
    await asyncio.sleep(0)
    assert bench.begun == [A, B]


async def test_an_attempt_that_is_taken_back_waits_no_more(bench: Bench) -> None:
    bench.slots.add(C, order("c"))
    assert bench.slots.take_back(C)
    assert not bench.slots.all_begun.is_set()
    assert bench.slots.take_back(B)
    assert bench.slots.all_begun.is_set()


async def test_where_all_are_taken_back_none_waits(bench: Bench) -> None:
    assert bench.slots.take_back_all() == [B]
    assert bench.slots.all_begun.is_set()


async def test_who_closes_waits_until_all_that_ran_is_over(bench: Bench) -> None:
    closing = asyncio.create_task(bench.slots.close())
    await asyncio.sleep(0)
    assert bench.running[0].is_cancelled
    assert bench.slots.all_begun.is_set()
    await asyncio.sleep(0)
    assert not closing.done()
    bench.over(A)
    await asyncio.wait_for(closing, 5)
    assert bench.begun == [A]
