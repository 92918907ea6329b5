"""Slots: what begins when, and when nothing waits for one any more."""

import asyncio
import threading

import pytest

from skillq.messages import TaskAssignment
from skillq_worker.execution.slots import Attempt, AttemptSlots
from tests.unit.worker.boss import order, until

A, B, C = (("default", id, 1) for id in "abc")


class Making:
    """An attempt that goes on until the test says that it is over."""

    successor: "Making | None" = None
    is_cancelled = has_started = False

    def __init__(self, attempt: Attempt, task: TaskAssignment, begun: list[Attempt]) -> None:
        self.attempt = attempt
        self.assignment = task
        self._begun = begun

    def start(self) -> None:
        self.has_started = True
        self._begun.append(self.attempt)

    def cancel(self) -> None:
        self.is_cancelled = True


class Bench:
    """Slots, and what has begun in them."""

    def __init__(self, slots: int = 1) -> None:
        self.begun: list[Attempt] = []
        self.makings: list[Making] = []
        self.may_begin = True
        self.slots = AttemptSlots(slots, self._make, lambda: self.may_begin)

    def _make(self, attempt: Attempt, task: TaskAssignment) -> Making:
        self.makings.append(Making(attempt, task, self.begun))
        return self.makings[-1]

    def over(self, number: int) -> None:
        self.slots.on_attempt_ended(self.makings[number])

    def passes_on(self, number: int) -> None:
        """An attempt has ended, and its slot goes to the next; nobody has heard that."""
        following = self.makings[number].successor = self.slots.take_waiting()
        if following is not None:
            following.has_started = True


@pytest.fixture
async def bench() -> Bench:
    """An attempt has begun; another one waits for it."""
    bench = Bench()
    bench.slots.add_attempt(A, order("a"))
    await asyncio.sleep(0)
    assert bench.slots.none_waiting.is_set()
    bench.slots.add_attempt(B, order("b"))
    await asyncio.sleep(0)
    assert bench.begun == [A]
    return bench


async def test_an_attempt_waits_until_a_slot_is_free(bench: Bench) -> None:
    assert not bench.slots.none_waiting.is_set()
    bench.over(0)
    assert bench.begun == [A, B]
    assert bench.slots.none_waiting.is_set()


async def test_what_was_aborted_keeps_its_slot_until_it_is_over(bench: Bench) -> None:
    assert bench.slots.cancel_attempt(A)
    assert bench.makings[0].is_cancelled
    await asyncio.sleep(0)
    assert bench.begun == [A]
    assert (bench.slots.running, bench.slots.free) == (1, 0)
    bench.over(0)
    assert bench.begun == [A, B]


async def test_what_is_over_or_was_aborted_cannot_be_aborted(bench: Bench) -> None:
    bench.over(0)
    assert not bench.slots.cancel_attempt(A)
    assert bench.slots.cancel_attempt(B)
    assert not bench.slots.cancel_attempt(B)


async def test_an_attempt_that_ends_late_leaves_one_of_the_same_number_alone(bench: Bench) -> None:
    """Another store's: it numbers attempts from 1 again."""
    assert bench.slots.remove_waiting(B)
    assert bench.slots.cancel_attempt(A)
    bench.slots.add_attempt(A, order("a"))
    bench.over(0)
    assert bench.begun == [A, A]
    assert bench.slots.cancel_attempt(A)
    assert bench.makings[1].is_cancelled


async def test_what_is_taken_back_in_the_turn_in_which_it_came_never_begins(bench: Bench) -> None:
    assert bench.slots.remove_waiting(B)
    bench.over(0)
    bench.slots.add_attempt(C, order("c"))
    assert bench.slots.remove_waiting(C)
    await asyncio.sleep(0)
    assert bench.begun == [A]


async def test_nothing_begins_until_it_may(bench: Bench) -> None:
    bench.may_begin = False
    bench.over(0)
    assert bench.begun == [A]
    bench.may_begin = True
    bench.slots.fill()
    await asyncio.sleep(0)
    assert bench.begun == [A, B]


async def test_an_attempt_that_is_taken_back_waits_no_more(bench: Bench) -> None:
    bench.slots.add_attempt(C, order("c"))
    assert bench.slots.remove_waiting(C)
    assert not bench.slots.none_waiting.is_set()
    assert bench.slots.remove_waiting(B)
    assert bench.slots.none_waiting.is_set()


async def test_where_all_are_taken_back_none_waits(bench: Bench) -> None:
    assert bench.slots.remove_all_waiting() == [B]
    assert bench.slots.none_waiting.is_set()


async def test_who_closes_waits_until_all_that_ran_is_over(bench: Bench) -> None:
    closing = asyncio.create_task(bench.slots.close())
    await asyncio.sleep(0)
    assert bench.makings[0].is_cancelled
    assert bench.slots.none_waiting.is_set()
    await asyncio.sleep(0)
    assert not closing.done()
    bench.over(0)
    await asyncio.wait_for(closing, 5)
    assert bench.begun == [A]


async def test_a_slot_goes_to_what_waits_for_it_when_its_attempt_has_ended_elsewhere(
    bench: Bench,
) -> None:
    bench.slots.add_attempt(C, order("c"))
    bench.passes_on(0)
    assert not bench.slots.remove_waiting(B), "it has begun"
    bench.over(0)
    assert bench.begun == [A, B]
    assert not bench.slots.none_waiting.is_set()
    bench.passes_on(1)
    assert not bench.slots.none_waiting.is_set(), "nobody has heard it"
    bench.over(1)
    assert bench.begun == [A, B, C]
    assert bench.slots.none_waiting.is_set()
    assert bench.slots.running == 1
    bench.over(2)
    assert bench.slots.running == 0


async def test_who_closes_ends_what_has_begun_elsewhere_too(bench: Bench) -> None:
    bench.passes_on(0)
    closing = asyncio.create_task(bench.slots.close())
    await asyncio.sleep(0)
    bench.over(0)
    assert bench.makings[1].is_cancelled
    await asyncio.sleep(0)
    assert not closing.done()
    bench.over(1)
    await asyncio.wait_for(closing, 5)


async def test_what_has_begun_elsewhere_leaves_one_of_the_same_number_alone() -> None:
    bench = Bench(slots=2)
    for attempt in (A, B):
        bench.slots.add_attempt(attempt, order(attempt[1]))
        await asyncio.sleep(0)
    assert bench.slots.cancel_attempt(A)
    bench.over(1)
    bench.slots.add_attempt(A, order("a"))
    await asyncio.sleep(0)
    assert bench.begun == [A, B, A]
    bench.over(0)
    assert bench.slots.cancel_attempt(A)
    assert bench.makings[2].is_cancelled


async def test_what_was_to_follow_and_has_not_begun_when_it_may_not_any_more_waits_first(
    bench: Bench,
) -> None:
    """A sync handler's: it begins when the worker hears of it, which may have stood still meanwhile."""
    bench.slots.add_attempt(C, order("c"))
    bench.makings[0].successor = bench.slots.take_waiting()
    bench.may_begin = False
    bench.over(0)
    assert bench.begun == [A]
    assert not bench.slots.none_waiting.is_set()
    assert (bench.slots.running, bench.slots.free) == (0, 0)
    bench.may_begin = True
    bench.slots.fill()
    await asyncio.sleep(0)
    assert bench.begun == [A, B]


async def test_what_has_begun_elsewhere_goes_on_though_nothing_may_begin_any_more(
    bench: Bench,
) -> None:
    bench.passes_on(0)
    bench.may_begin = False
    bench.over(0)
    assert bench.slots.running == 1
    assert not bench.slots.remove_waiting(B)
    bench.over(1)
    assert (bench.slots.running, bench.begun) == (0, [A, B])


async def test_what_waits_again_is_not_put_in_place_of_one_of_the_same_name(bench: Bench) -> None:
    bench.makings[0].successor = bench.slots.take_waiting()
    bench.may_begin = False
    other = order("b", payload={"of": "another store"})
    bench.slots.add_attempt(B, other)
    bench.over(0)
    bench.may_begin = True
    bench.slots.fill()
    await asyncio.sleep(0)
    assert bench.makings[-1].assignment is other


async def test_who_keeps_an_attempt_does_not_keep_those_after_it(bench: Bench) -> None:
    bench.passes_on(0)
    bench.over(0)
    assert bench.makings[0].successor is None


async def test_none_is_lost_that_begins_elsewhere_while_all_are_taken_back() -> None:
    bench = Bench()
    bench.may_begin = False
    ids = [("default", str(n), 1) for n in range(20_000)]
    for attempt in ids:
        bench.slots.add_attempt(attempt, order("a"))
    bench.may_begin = True
    begun: list[Attempt] = []

    def take() -> None:
        while (one := bench.slots.take_waiting()) is not None:
            begun.append(one.attempt)

    thread = threading.Thread(target=take)
    thread.start()
    await until(lambda: begun)
    taken_back = bench.slots.remove_all_waiting()
    thread.join()
    assert sorted(begun + taken_back) == sorted(ids)
