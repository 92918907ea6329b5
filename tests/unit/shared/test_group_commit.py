"""A group commit sends the items that come during one publish together, as the next batch."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from skillq.client.group_commit import GroupCommit
from skillq.errors import TransportError, Unreachable, UsageError
from tests.support.event_loop import run_ready_tasks
from tests.support.virtual_time import SkippingLoop


class HeldSender:
    """A sender whose last batch is in flight until the test finishes it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._in_flight: list[asyncio.Future[None]] = []

    async def send(self, items: list[str]) -> bool:
        self.batches.append(items)
        self._in_flight.append(asyncio.get_running_loop().create_future())
        await self._in_flight[-1]
        return len(items) > 1

    def finish(self, error: Exception | None = None) -> None:
        self._in_flight[-1].set_result(None) if error is None else self._in_flight[
            -1
        ].set_exception(error)


@pytest.fixture
def sender() -> HeldSender:
    return HeldSender()


@pytest.fixture
def group_commit(sender: HeldSender) -> GroupCommit[str]:
    return GroupCommit(sender.send)


@pytest.fixture
async def answered(long_answer_wait: None, group_commit: GroupCommit[str]) -> None:
    group_commit.on_answered(is_latest=True)


@pytest.fixture
async def waiting_for_answer(
    answered: None, sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    """Send a batch of two items that is not answered yet; a third item waits for the answer."""
    await put(group_commit, "a", "b")
    sender.finish()
    await run_ready_tasks()
    await put(group_commit, "c")


async def put(
    group_commit: GroupCommit[str], *items: str, share: float = 0.1
) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(group_commit.put(item, share)) for item in items]
    await run_ready_tasks()
    return tasks


async def test_a_single_item_is_sent_at_once_and_items_during_a_publish_are_sent_together(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    (first,) = await put(group_commit, "a")
    others = await put(group_commit, "b", "c")
    assert sender.batches == [["a"]]
    sender.finish()
    await first
    await run_ready_tasks()
    assert sender.batches == [["a"], ["b", "c"]]
    assert not any(one.done() for one in others)
    sender.finish()
    await asyncio.gather(*others)
    group_commit.on_answered(is_latest=True)
    last = await put(group_commit, "d")
    sender.finish()
    await asyncio.gather(*last)
    assert sender.batches[2:] == [["d"]]


async def test_a_batch_holds_no_more_than_it_has_room_for(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    waiting = await put(group_commit, "a")
    waiting += await put(group_commit, "b", "c", "d", share=0.4)
    for _ in range(3):
        sender.finish()
        group_commit.on_answered(is_latest=True)
        await run_ready_tasks()
    await asyncio.gather(*waiting)
    assert sender.batches == [["a"], ["b", "c"], ["d"]]


async def test_if_unreachable_all_waiting_callers_get_the_error_and_the_next_item_is_tried(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    waiting = await put(group_commit, "a", share=1.0) + await put(group_commit, "b", "c", share=1.0)
    sender.finish(Unreachable("gone"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == ["gone"] * 3
    assert sender.batches == [["a"]]
    (later,) = await put(group_commit, "d")
    sender.finish()
    await later


async def test_an_item_that_cannot_be_sent_does_not_fail_the_items_behind_it(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    (large,) = await put(group_commit, "a", share=1.0)
    (other,) = await put(group_commit, "b")
    sender.finish(UsageError("too large"))
    with pytest.raises(UsageError, match="too large"):
        await large
    await run_ready_tasks()
    sender.finish()
    await other
    assert sender.batches == [["a"], ["b"]]


async def test_a_cancelled_caller_does_not_stop_the_others(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    one, other = await put(group_commit, "a", "b")
    one.cancel()
    with suppress(asyncio.CancelledError):
        await one
    sender.finish()
    await other
    assert sender.batches == [["a", "b"]]


async def test_close_raises_its_error_for_waiting_callers(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    waiting = await put(group_commit, "a")
    waiting += await put(group_commit, "b")
    group_commit.close(TransportError("closed"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == ["closed"] * 2
    assert sender.batches == [["a"]]


async def test_put_raises_the_error_after_close_even_if_nothing_was_sent(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    first = asyncio.create_task(group_commit.put("a", 0.1))
    await asyncio.sleep(0)
    group_commit.close(TransportError("closed"))
    with pytest.raises(TransportError, match="closed"):
        await first
    with pytest.raises(TransportError, match="closed"):
        await group_commit.put("b", 0.1)
    assert not sender.batches


@pytest.mark.usefixtures("answered")
async def test_after_a_batch_of_several_the_next_items_wait_for_the_answer(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    waiting = await put(group_commit, "a", "b")
    waiting += await put(group_commit, "c")
    sender.finish()
    await run_ready_tasks()
    waiting += await put(group_commit, "d")
    assert sender.batches == [["a", "b"]]
    assert [one.done() for one in waiting] == [True, True, False, False]
    group_commit.on_answered(is_latest=True)
    await run_ready_tasks()
    sender.finish()
    await asyncio.gather(*waiting)
    assert sender.batches == [["a", "b"], ["c", "d"]]


@pytest.mark.usefixtures("answered")
async def test_an_answer_may_come_before_the_publish_is_finished(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    first = await put(group_commit, "a", "b")
    group_commit.on_answered(is_latest=True)
    sender.finish()
    await asyncio.gather(*first)
    await put(group_commit, "c")
    assert sender.batches == [["a", "b"], ["c"]]


@pytest.mark.usefixtures("answered")
async def test_items_that_come_one_after_the_other_do_not_wait_for_an_answer(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    for item in "abc":
        (sent,) = await put(group_commit, item)
        sender.finish()
        await sent
    assert sender.batches == [["a"], ["b"], ["c"]]


@pytest.mark.usefixtures("answered")
@pytest.mark.parametrize("is_before_end", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.6])
async def test_a_full_batch_does_not_wait_for_an_answer(
    sender: HeldSender, group_commit: GroupCommit[str], share: float, is_before_end: bool
) -> None:
    await put(group_commit, "a", "b")
    await put(group_commit, "c", share=0.5)
    if is_before_end:
        await put(group_commit, "d", share=share)
    sender.finish()
    await run_ready_tasks()
    if not is_before_end:
        assert sender.batches == [["a", "b"]]
        await put(group_commit, "d", share=share)
    assert sender.batches[1:] == [["c", "d"] if share == 0.5 else ["c"]]


@pytest.mark.usefixtures("answered")
async def test_the_wait_for_an_answer_is_limited_from_the_start_of_the_publish(
    sender: HeldSender, group_commit: GroupCommit[str], clock: SkippingLoop
) -> None:
    waiting = await put(group_commit, "a", "b")
    clock.advance(999)
    waiting += await put(group_commit, "c", "d")
    sender.finish()
    await run_ready_tasks()
    assert sender.batches == [["a", "b"]]
    clock.advance(2)
    await run_ready_tasks()
    assert sender.batches[1:] == [["c", "d"]]
    clock.advance(1001)
    sender.finish()
    await run_ready_tasks()
    assert [one.done() for one in waiting] == [True] * 4
    await put(group_commit, "e")
    assert sender.batches[2:] == [["e"]]


@pytest.mark.usefixtures("answered")
async def test_after_each_batch_of_several_the_next_items_wait_for_an_answer(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    for name in "abc":
        await put(group_commit, name + "1", name + "2")
        sender.finish()
        await run_ready_tasks()
        assert sender.batches[-1] == [name + "1", name + "2"]
        await put(group_commit, name + "3")
        assert sender.batches[-1] == [name + "1", name + "2"]
        group_commit.on_answered(is_latest=True)
        await run_ready_tasks()
        assert sender.batches[-1] == [name + "3"]
        sender.finish()
        await run_ready_tasks()


@pytest.mark.usefixtures("waiting_for_answer")
async def test_an_answer_to_an_earlier_batch_does_not_send_the_next(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    group_commit.on_answered(is_latest=False)
    await run_ready_tasks()
    assert sender.batches == [["a", "b"]]


@pytest.mark.usefixtures("waiting_for_answer")
async def test_after_a_batch_is_accepted_the_next_waits_as_long_again_as_that_took(
    sender: HeldSender, group_commit: GroupCommit[str], clock: SkippingLoop
) -> None:
    clock.advance(100)
    group_commit.on_accepted(is_latest=True)
    clock.advance(99)
    await run_ready_tasks()
    await put(group_commit, "d")
    assert sender.batches == [["a", "b"]]
    clock.advance(2)
    await run_ready_tasks()
    assert sender.batches[1:] == [["c", "d"]]


@pytest.mark.usefixtures("waiting_for_answer")
async def test_a_batch_that_is_accepted_late_does_not_prolong_the_wait(
    sender: HeldSender, group_commit: GroupCommit[str], clock: SkippingLoop
) -> None:
    clock.advance(900)
    group_commit.on_accepted(is_latest=True)
    await run_ready_tasks()
    assert sender.batches == [["a", "b"]]
    clock.advance(101)
    await run_ready_tasks()
    assert sender.batches[1:] == [["c"]]


@pytest.mark.usefixtures("answered")
async def test_a_batch_that_has_ended_before_its_publish_is_finished_delays_nothing(
    sender: HeldSender, group_commit: GroupCommit[str], clock: SkippingLoop
) -> None:
    await put(group_commit, "a", "b")
    clock.advance(100)
    group_commit.on_accepted(is_latest=True)
    group_commit.on_answered(is_latest=True)
    group_commit.on_accepted(is_latest=True)
    sender.finish()
    await run_ready_tasks()
    await put(group_commit, "c")
    assert sender.batches == [["a", "b"], ["c"]]


@pytest.mark.usefixtures("waiting_for_answer")
async def test_an_accepted_event_of_an_earlier_batch_does_not_shorten_the_wait(
    sender: HeldSender, group_commit: GroupCommit[str], clock: SkippingLoop
) -> None:
    group_commit.on_accepted(is_latest=False)
    clock.advance(999)
    await run_ready_tasks()
    assert sender.batches == [["a", "b"]]


@pytest.mark.usefixtures("answered")
@pytest.mark.parametrize("notify", [GroupCommit.on_accepted, GroupCommit.on_answered])
async def test_a_manager_without_recent_answers_is_not_waited_for_until_it_answers(
    sender: HeldSender,
    group_commit: GroupCommit[str],
    clock: SkippingLoop,
    notify: Callable[..., None],
) -> None:
    clock.advance(2001)
    for items in (["a", "b"], ["c", "d"]):
        await put(group_commit, *items)
        sender.finish()
        await run_ready_tasks()
        assert sender.batches[-1] == items
    notify(group_commit, is_latest=False)
    await put(group_commit, "e")
    assert sender.batches == [["a", "b"], ["c", "d"]]


@pytest.mark.usefixtures("answered")
@pytest.mark.parametrize("count", [10, 1000])
async def test_shares_that_add_up_to_one_fill_a_batch(
    sender: HeldSender, group_commit: GroupCommit[str], count: int
) -> None:
    await put(group_commit, "a", "b")
    await put(group_commit, *map(str, range(count)), share=1 / count)
    sender.finish()
    await run_ready_tasks()
    assert [len(batch) for batch in sender.batches] == [2, count]


@pytest.mark.usefixtures("answered")
@pytest.mark.parametrize("error", [UsageError("too large"), Unreachable("gone")])
async def test_after_a_failed_publish_no_answer_is_waited_for(
    sender: HeldSender, group_commit: GroupCommit[str], error: Exception
) -> None:
    waiting = await put(group_commit, "a", "b")
    sender.finish(error)
    waiting += await put(group_commit, "c")
    sender.finish()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == [str(error), str(error), "None"]


@pytest.mark.usefixtures("answered")
async def test_close_raises_its_error_for_items_that_wait_for_an_answer(
    sender: HeldSender, group_commit: GroupCommit[str]
) -> None:
    waiting = await put(group_commit, "a", "b")
    sender.finish()
    waiting += await put(group_commit, "c")
    group_commit.close(TransportError("closed"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == ["None", "None", "closed"]
    group_commit.on_answered(is_latest=True)
    await run_ready_tasks()
    assert sender.batches == [["a", "b"]]
    assert not [one for one in asyncio.all_tasks() if one.get_name() == "group commit"]
