"""The buffer of multipart submissions: no part is lost, waits for ever or keeps other submissions out."""

from collections.abc import Sequence

import pytest

from skillq import timings, topology
from skillq.messages import MAX_PARTS, Submission
from skillq.transport import Consumer, Delivery, Outgoing
from skillq_manager.inbound.multipart import MAX_HELD_PARTS, MultipartBuffer, Partial
from skillq_manager.leadership.queues import PREFETCH
from tests.support.factories import task


class IdleConsumer:
    """A consumer that is only compared with others."""

    live = True

    async def batch(self) -> list[Delivery]:
        raise AssertionError("the test adds the deliveries")

    async def ack(self, deliveries: Sequence[Delivery]) -> None: ...

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None: ...

    async def close(self) -> None: ...


class BufferHarness:
    """A buffer, and a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.buffer = MultipartBuffer(lambda: self.now)
        self.consumer: Consumer = IdleConsumer()

    def add_part(self, number: int, parts: int, id: str = "s") -> Delivery | None:
        """Add a part; return the delivery of an earlier copy that is no longer needed."""
        part = Submission(
            submission_id=id,
            run="run",
            run_title="Run",
            tasks=(task(f"{id}{number}"),),
            part=number,
            parts=parts,
        )
        body = Outgoing.from_message(part).body
        queue = topology.MANAGER_SUBMISSIONS
        delivery = Delivery(body, part.type, queue, "x", "submit.x", False, {}, "1", "app", number)
        earlier = self.buffer.add_part(part, self.consumer, delivery)
        return earlier and earlier.delivery


@pytest.fixture
def harness() -> BufferHarness:
    return BufferHarness()


def ids(partials: Sequence[Partial]) -> list[str]:
    return [partial.key[0] for partial in partials]


async def test_a_submission_is_complete_when_all_parts_have_arrived_in_any_order(
    harness: BufferHarness,
) -> None:
    for number in (3, 1):
        harness.add_part(number, 3)
        assert not harness.buffer.take_complete()
    harness.add_part(2, 3)
    (partial,) = harness.buffer.take_complete()
    whole = await partial.merge_parts()
    assert [t.id for t in whole.tasks] == ["s1", "s2", "s3"]
    assert (whole.submission_id, whole.run, whole.run_title, whole.parts) == ("s", "run", "Run", 1)
    assert len(partial.held_parts) == 3
    assert not len(harness.buffer)


def test_parts_of_different_submissions_are_kept_separate(harness: BufferHarness) -> None:
    harness.add_part(1, 2, "a")
    harness.add_part(2, 2, "b")
    harness.add_part(2, 3, "a")  # another number of parts is another submission
    assert not harness.buffer.take_complete()
    harness.add_part(2, 2, "a")
    assert ids(harness.buffer.take_complete()) == ["a"]


def test_the_later_copy_of_a_repeated_part_is_kept(harness: BufferHarness) -> None:
    """Only the later copy can be acknowledged if the earlier one is from before a reconnect."""
    assert harness.add_part(1, 2) is None
    earlier = harness.add_part(1, 2)
    assert earlier is not None
    assert len(harness.buffer) == 1
    harness.add_part(2, 2)
    (partial,) = harness.buffer.take_complete()
    assert partial.held_parts[1].delivery is not earlier


def test_the_time_to_wait_for_missing_parts_counts_from_the_last_part(
    harness: BufferHarness,
) -> None:
    harness.add_part(1, 3, "a")
    harness.now += timings.PARTS_SILENCE_SECONDS - 1
    harness.add_part(2, 3, "a")
    harness.add_part(1, 2, "b")
    assert harness.buffer.next_deadline() == harness.now + timings.PARTS_SILENCE_SECONDS
    harness.now += timings.PARTS_SILENCE_SECONDS - 1
    harness.add_part(2, 3, "a")
    assert harness.buffer.next_deadline() == harness.now + 1
    harness.now += 1
    assert ids(harness.buffer.take_expired()) == ["b"]
    assert len(harness.buffer) == 2


def test_an_empty_buffer_has_no_deadline(harness: BufferHarness) -> None:
    assert harness.buffer.next_deadline() is None
    harness.add_part(1, 2)
    harness.buffer.clear()
    assert harness.buffer.next_deadline() is None


def test_of_too_many_parts_the_newest_submission_is_removed_first(harness: BufferHarness) -> None:
    for number in range(1, MAX_PARTS):
        for id in "abc":
            harness.add_part(number, MAX_PARTS, id)
    assert len(harness.buffer) > MAX_HELD_PARTS
    assert ids(harness.buffer.take_excess()) == ["c"]
    for number in range(1, MAX_PARTS):
        harness.add_part(number, MAX_PARTS, "c")
    assert not harness.buffer.take_excess()
    assert harness.buffer.next_deadline() == harness.now + timings.PARTS_REQUEUE_SECONDS
    harness.now += timings.PARTS_REQUEUE_SECONDS
    (excess,) = harness.buffer.take_excess()
    assert ids([excess]) == ["c"]
    harness.buffer.put_back(excess)
    assert len(harness.buffer) == 3 * (MAX_PARTS - 1)


def test_the_prefetch_exceeds_the_buffer_and_the_largest_submission_fits() -> None:
    assert PREFETCH > MAX_HELD_PARTS >= MAX_PARTS
