"""Parts wait for each other: none is forgotten, none waits for ever, none keeps others out."""

from collections.abc import Sequence

import pytest

from skillq import timings, topology
from skillq.messages import MAX_PARTS, Submission
from skillq.transport import Consumer, Delivery, Outgoing
from skillq_manager.inbound.multipart import MAX_HELD_PARTS, MultipartBuffer, Partial
from skillq_manager.leadership.queues import PREFETCH
from tests.support.factories import task


class Nobody:
    """A consumer that is only told apart from others."""

    live = True

    async def batch(self) -> list[Delivery]:
        raise AssertionError("its deliveries are put in by hand")

    async def ack(self, deliveries: Sequence[Delivery]) -> None: ...

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None: ...

    async def close(self) -> None: ...


class Shelf:
    """Parts, and a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.parts = MultipartBuffer(lambda: self.now)
        self.consumer: Consumer = Nobody()

    def put(self, number: int, of: int, id: str = "s") -> Delivery | None:
        """Returns the delivery that is not needed any more."""
        part = Submission(
            submission_id=id,
            run="run",
            run_title="Run",
            tasks=(task(f"{id}{number}"),),
            part=number,
            parts=of,
        )
        body = Outgoing.from_message(part).body
        queue = topology.MANAGER_SUBMISSIONS
        delivery = Delivery(body, part.type, queue, "x", "submit.x", False, {}, "1", "app", number)
        earlier = self.parts.add_part(part, self.consumer, delivery)
        return earlier and earlier.delivery


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def ids(piles: Sequence[Partial]) -> list[str]:
    return [pile.key[0] for pile in piles]


async def test_a_submission_is_whole_when_all_its_parts_are_there_in_whatever_order(
    shelf: Shelf,
) -> None:
    for number in (3, 1):
        shelf.put(number, 3)
        assert not shelf.parts.take_complete()
    shelf.put(2, 3)
    (pile,) = shelf.parts.take_complete()
    whole = await pile.merge_parts()
    assert [t.id for t in whole.tasks] == ["s1", "s2", "s3"]
    assert (whole.submission_id, whole.run, whole.run_title, whole.parts) == ("s", "run", "Run", 1)
    assert len(pile.held_parts) == 3
    assert not len(shelf.parts)


def test_parts_of_different_submissions_are_kept_apart(shelf: Shelf) -> None:
    shelf.put(1, 2, "a")
    shelf.put(2, 2, "b")
    shelf.put(2, 3, "a")  # who cuts anew hands in something else
    assert not shelf.parts.take_complete()
    shelf.put(2, 2, "a")
    assert ids(shelf.parts.take_complete()) == ["a"]


def test_of_a_part_that_comes_twice_the_later_copy_is_kept(shelf: Shelf) -> None:
    """The earlier one may be from before a reconnect: then only the later one can be acknowledged."""
    assert shelf.put(1, 2) is None
    earlier = shelf.put(1, 2)
    assert earlier is not None
    assert len(shelf.parts) == 1
    shelf.put(2, 2)
    (pile,) = shelf.parts.take_complete()
    assert pile.held_parts[1].delivery is not earlier


def test_the_rest_is_waited_for_since_the_last_part_that_came(shelf: Shelf) -> None:
    shelf.put(1, 3, "a")
    shelf.now += timings.PARTS_SILENCE_SECONDS - 1
    shelf.put(2, 3, "a")
    shelf.put(1, 2, "b")
    assert shelf.parts.next_deadline() == shelf.now + timings.PARTS_SILENCE_SECONDS
    shelf.now += timings.PARTS_SILENCE_SECONDS - 1
    shelf.put(2, 3, "a")
    assert shelf.parts.next_deadline() == shelf.now + 1
    shelf.now += 1
    assert ids(shelf.parts.take_expired()) == ["b"]
    assert len(shelf.parts) == 2


def test_with_nothing_there_nothing_is_waited_for(shelf: Shelf) -> None:
    assert shelf.parts.next_deadline() is None
    shelf.put(1, 2)
    shelf.parts.clear()
    assert shelf.parts.next_deadline() is None


def test_of_too_many_the_last_one_begun_makes_room_one_at_a_time(shelf: Shelf) -> None:
    for number in range(1, MAX_PARTS):
        for id in "abc":
            shelf.put(number, MAX_PARTS, id)
    assert len(shelf.parts) > MAX_HELD_PARTS
    assert ids(shelf.parts.take_excess()) == ["c"]
    for number in range(1, MAX_PARTS):
        shelf.put(number, MAX_PARTS, "c")
    assert not shelf.parts.take_excess()
    assert shelf.parts.next_deadline() == shelf.now + timings.PARTS_REQUEUE_SECONDS
    shelf.now += timings.PARTS_REQUEUE_SECONDS
    (excess,) = shelf.parts.take_excess()
    assert ids([excess]) == ["c"]
    shelf.parts.put_back(excess)
    assert len(shelf.parts) == 3 * (MAX_PARTS - 1)


def test_more_are_delivered_than_may_wait_and_the_largest_submission_has_room() -> None:
    assert PREFETCH > MAX_HELD_PARTS >= MAX_PARTS
