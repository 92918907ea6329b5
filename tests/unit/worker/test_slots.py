"""Slots say when nothing waits for one any more."""

import asyncio

import pytest

from skillq.messages import TaskAssignment
from skillq_worker.slots import Attempt, Slots
from tests.unit.worker.boss import order

A, B, C = (("default", id, 1) for id in "abc")


@pytest.fixture
async def slots() -> Slots:
    """One slot, in which an attempt goes on until the test ends; another one waits for it."""
    may_begin = asyncio.Event()
    may_begin.set()

    async def make(attempt: Attempt, task: TaskAssignment) -> None:
        await asyncio.Event().wait()

    slots = Slots(1, make, may_begin)
    slots.add(A, order("a"))
    await asyncio.sleep(0)
    assert slots.all_begun.is_set()
    slots.add(B, order("b"))
    await asyncio.sleep(0)
    return slots


async def test_an_attempt_waits_until_a_slot_is_free(slots: Slots) -> None:
    assert not slots.all_begun.is_set()
    assert slots.abort(A)
    await asyncio.wait_for(slots.all_begun.wait(), 5)


async def test_an_attempt_that_is_taken_back_waits_no_more(slots: Slots) -> None:
    slots.add(C, order("c"))
    assert slots.take_back(C)
    assert not slots.all_begun.is_set()
    assert slots.take_back(B)
    assert slots.all_begun.is_set()


async def test_where_all_are_taken_back_none_waits(slots: Slots) -> None:
    assert slots.take_back_all() == [B]
    assert slots.all_begun.is_set()


async def test_where_all_has_ended_none_waits(slots: Slots) -> None:
    await slots.close()
    assert slots.all_begun.is_set()
