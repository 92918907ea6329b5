"""Attempt slots: which attempt starts when, and which ones wait."""

import asyncio
import threading

import pytest

from skillq.messages import TaskAssignment
from skillq_worker.execution.slots import Attempt, AttemptSlots
from tests.support.fake_manager import assignment
from tests.support.waiting import until_async

A, B, C = (("default", id, 1) for id in "abc")


class FakeAttemptRun:
    """An attempt that runs until the test ends it."""

    successor: "FakeAttemptRun | None" = None
    is_cancelled = has_started = False

    def __init__(self, attempt: Attempt, task: TaskAssignment, started: list[Attempt]) -> None:
        self.attempt = attempt
        self.assignment = task
        self._started = started

    def start(self) -> None:
        self.has_started = True
        self._started.append(self.attempt)

    def cancel(self) -> None:
        self.is_cancelled = True


class SlotsHarness:
    """Attempt slots, and the attempts that have started in them."""

    def __init__(self, slots: int = 1) -> None:
        self.started: list[Attempt] = []
        self.attempt_runs: list[FakeAttemptRun] = []
        self.may_start = True
        self.slots = AttemptSlots(slots, self._make, lambda: self.may_start)

    def _make(self, attempt: Attempt, task: TaskAssignment) -> FakeAttemptRun:
        self.attempt_runs.append(FakeAttemptRun(attempt, task, self.started))
        return self.attempt_runs[-1]

    def end_attempt(self, number: int) -> None:
        self.slots.on_attempt_ended(self.attempt_runs[number])

    def end_on_handler_thread(self, number: int) -> None:
        """End an attempt and give its slot to the next one; the worker has not noticed it yet."""
        next_run = self.attempt_runs[number].successor = self.slots.take_waiting()
        if next_run is not None:
            next_run.has_started = True


@pytest.fixture
async def harness() -> SlotsHarness:
    """Return slots where attempt A has started, and B waits for its slot."""
    harness = SlotsHarness()
    harness.slots.add_attempt(A, assignment("a"))
    await asyncio.sleep(0)
    assert harness.slots.none_waiting.is_set()
    harness.slots.add_attempt(B, assignment("b"))
    await asyncio.sleep(0)
    assert harness.started == [A]
    return harness


async def test_an_attempt_waits_until_a_slot_is_free(harness: SlotsHarness) -> None:
    assert not harness.slots.none_waiting.is_set()
    harness.end_attempt(0)
    assert harness.started == [A, B]
    assert harness.slots.none_waiting.is_set()


async def test_a_cancelled_attempt_keeps_its_slot_until_it_ends(harness: SlotsHarness) -> None:
    assert harness.slots.cancel_attempt(A)
    assert harness.attempt_runs[0].is_cancelled
    await asyncio.sleep(0)
    assert harness.started == [A]
    assert (harness.slots.running, harness.slots.free) == (1, 0)
    harness.end_attempt(0)
    assert harness.started == [A, B]


async def test_an_ended_or_cancelled_attempt_cannot_be_cancelled(harness: SlotsHarness) -> None:
    harness.end_attempt(0)
    assert not harness.slots.cancel_attempt(A)
    assert harness.slots.cancel_attempt(B)
    assert not harness.slots.cancel_attempt(B)


async def test_the_late_end_of_an_attempt_does_not_affect_another_of_the_same_number(
    harness: SlotsHarness,
) -> None:
    """Another store numbers attempts from 1 again."""
    assert harness.slots.remove_waiting(B)
    assert harness.slots.cancel_attempt(A)
    harness.slots.add_attempt(A, assignment("a"))
    harness.end_attempt(0)
    assert harness.started == [A, A]
    assert harness.slots.cancel_attempt(A)
    assert harness.attempt_runs[1].is_cancelled


async def test_an_attempt_that_is_removed_in_the_turn_of_its_arrival_never_starts(
    harness: SlotsHarness,
) -> None:
    assert harness.slots.remove_waiting(B)
    harness.end_attempt(0)
    harness.slots.add_attempt(C, assignment("c"))
    assert harness.slots.remove_waiting(C)
    await asyncio.sleep(0)
    assert harness.started == [A]


async def test_no_attempt_starts_while_starting_is_not_allowed(harness: SlotsHarness) -> None:
    harness.may_start = False
    harness.end_attempt(0)
    assert harness.started == [A]
    harness.may_start = True
    harness.slots.fill()
    await asyncio.sleep(0)
    assert harness.started == [A, B]


async def test_a_removed_attempt_no_longer_waits(harness: SlotsHarness) -> None:
    harness.slots.add_attempt(C, assignment("c"))
    assert harness.slots.remove_waiting(C)
    assert not harness.slots.none_waiting.is_set()
    assert harness.slots.remove_waiting(B)
    assert harness.slots.none_waiting.is_set()


async def test_no_attempt_waits_after_all_are_removed(harness: SlotsHarness) -> None:
    assert harness.slots.remove_all_waiting() == [B]
    assert harness.slots.none_waiting.is_set()


async def test_close_waits_until_all_running_attempts_have_ended(harness: SlotsHarness) -> None:
    closing = asyncio.create_task(harness.slots.close())
    await asyncio.sleep(0)
    assert harness.attempt_runs[0].is_cancelled
    assert harness.slots.none_waiting.is_set()
    await asyncio.sleep(0)
    assert not closing.done()
    harness.end_attempt(0)
    await asyncio.wait_for(closing, 5)
    assert harness.started == [A]


async def test_a_slot_goes_to_the_next_attempt_when_the_previous_ends_on_the_handler_thread(
    harness: SlotsHarness,
) -> None:
    harness.slots.add_attempt(C, assignment("c"))
    harness.end_on_handler_thread(0)
    assert not harness.slots.remove_waiting(B), "it has started"
    harness.end_attempt(0)
    assert harness.started == [A, B]
    assert not harness.slots.none_waiting.is_set()
    harness.end_on_handler_thread(1)
    assert not harness.slots.none_waiting.is_set(), "the worker has not noticed it"
    harness.end_attempt(1)
    assert harness.started == [A, B, C]
    assert harness.slots.none_waiting.is_set()
    assert harness.slots.running == 1
    harness.end_attempt(2)
    assert harness.slots.running == 0


async def test_close_cancels_attempts_that_started_on_the_handler_thread(
    harness: SlotsHarness,
) -> None:
    harness.end_on_handler_thread(0)
    closing = asyncio.create_task(harness.slots.close())
    await asyncio.sleep(0)
    harness.end_attempt(0)
    assert harness.attempt_runs[1].is_cancelled
    await asyncio.sleep(0)
    assert not closing.done()
    harness.end_attempt(1)
    await asyncio.wait_for(closing, 5)


async def test_an_attempt_started_on_the_handler_thread_does_not_affect_another_of_its_number() -> (
    None
):
    harness = SlotsHarness(slots=2)
    for attempt in (A, B):
        harness.slots.add_attempt(attempt, assignment(attempt[1]))
        await asyncio.sleep(0)
    assert harness.slots.cancel_attempt(A)
    harness.end_attempt(1)
    harness.slots.add_attempt(A, assignment("a"))
    await asyncio.sleep(0)
    assert harness.started == [A, B, A]
    harness.end_attempt(0)
    assert harness.slots.cancel_attempt(A)
    assert harness.attempt_runs[2].is_cancelled


async def test_a_next_attempt_that_may_no_longer_start_waits_in_first_place(
    harness: SlotsHarness,
) -> None:
    """A sync handler starts when the worker notices the end; the worker may have been stalled."""
    harness.slots.add_attempt(C, assignment("c"))
    harness.attempt_runs[0].successor = harness.slots.take_waiting()
    harness.may_start = False
    harness.end_attempt(0)
    assert harness.started == [A]
    assert not harness.slots.none_waiting.is_set()
    assert (harness.slots.running, harness.slots.free) == (0, 0)
    harness.may_start = True
    harness.slots.fill()
    await asyncio.sleep(0)
    assert harness.started == [A, B]


async def test_an_attempt_started_on_the_handler_thread_goes_on_when_starting_is_forbidden(
    harness: SlotsHarness,
) -> None:
    harness.end_on_handler_thread(0)
    harness.may_start = False
    harness.end_attempt(0)
    assert harness.slots.running == 1
    assert not harness.slots.remove_waiting(B)
    harness.end_attempt(1)
    assert (harness.slots.running, harness.started) == (0, [A, B])


async def test_an_attempt_that_waits_again_does_not_replace_a_newer_one_of_its_name(
    harness: SlotsHarness,
) -> None:
    harness.attempt_runs[0].successor = harness.slots.take_waiting()
    harness.may_start = False
    other = assignment("b", payload={"of": "another store"})
    harness.slots.add_attempt(B, other)
    harness.end_attempt(0)
    harness.may_start = True
    harness.slots.fill()
    await asyncio.sleep(0)
    assert harness.attempt_runs[-1].assignment is other


async def test_an_ended_attempt_holds_no_reference_to_its_successor(harness: SlotsHarness) -> None:
    harness.end_on_handler_thread(0)
    harness.end_attempt(0)
    assert harness.attempt_runs[0].successor is None


async def test_no_attempt_is_lost_when_a_thread_takes_attempts_while_all_are_removed() -> None:
    harness = SlotsHarness()
    harness.may_start = False
    ids = [("default", str(n), 1) for n in range(20_000)]
    for attempt in ids:
        harness.slots.add_attempt(attempt, assignment("a"))
    harness.may_start = True
    started: list[Attempt] = []

    def take() -> None:
        while (one := harness.slots.take_waiting()) is not None:
            started.append(one.attempt)

    thread = threading.Thread(target=take)
    thread.start()
    await until_async(lambda: started, "the thread should take an attempt")
    removed = harness.slots.remove_all_waiting()
    thread.join()
    assert sorted(started + removed) == sorted(ids)
