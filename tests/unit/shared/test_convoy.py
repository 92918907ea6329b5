"""What comes while something is under way goes together, as the next load."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from skillq.client.group_commit import GroupCommit
from skillq.errors import TransportError, Unreachable, UsageError
from tests.support.virtual_time import SkippingLoop


class Road:
    """Loads that are under way until somebody lets them arrive."""

    def __init__(self) -> None:
        self.loads: list[list[str]] = []
        self.has_left = asyncio.Event()
        self._arrivals: list[asyncio.Future[None]] = []

    async def carry(self, items: list[str]) -> bool:
        self.loads.append(items)
        self.has_left.set()
        self._arrivals.append(asyncio.get_running_loop().create_future())
        await self._arrivals[-1]
        return len(items) > 1

    def arrive(self, error: Exception | None = None) -> None:
        self._arrivals[-1].set_result(None) if error is None else self._arrivals[-1].set_exception(
            error
        )


@pytest.fixture
def road() -> Road:
    return Road()


@pytest.fixture
def convoy(road: Road) -> GroupCommit[str]:
    return GroupCommit(road.carry)


@pytest.fixture
async def heard(patient: None, convoy: GroupCommit[str]) -> None:
    convoy.on_answered(is_latest=True)


@pytest.fixture
async def held(heard: None, road: Road, convoy: GroupCommit[str]) -> None:
    """Of two that went together an answer is to come, and a third waits for it."""
    await put(convoy, "a", "b")
    road.arrive()
    await turns()
    await put(convoy, "c")


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def put(
    convoy: GroupCommit[str], *items: str, share: float = 0.1
) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(convoy.put(item, share)) for item in items]
    await turns()
    return tasks


async def test_what_comes_alone_goes_at_once_and_what_comes_meanwhile_goes_together(
    road: Road, convoy: GroupCommit[str]
) -> None:
    (first,) = await put(convoy, "a")
    others = await put(convoy, "b", "c")
    assert road.loads == [["a"]]
    road.arrive()
    await first
    await turns()
    assert road.loads == [["a"], ["b", "c"]]
    assert not any(one.done() for one in others)
    road.arrive()
    await asyncio.gather(*others)
    convoy.on_answered(is_latest=True)
    last = await put(convoy, "d")
    road.arrive()
    await asyncio.gather(*last)
    assert road.loads[2:] == [["d"]]


async def test_a_load_takes_no_more_than_it_has_room_for(
    road: Road, convoy: GroupCommit[str]
) -> None:
    waiting = await put(convoy, "a")
    waiting += await put(convoy, "b", "c", "d", share=0.4)
    for _ in range(3):
        road.arrive()
        convoy.on_answered(is_latest=True)
        await turns()
    await asyncio.gather(*waiting)
    assert road.loads == [["a"], ["b", "c"], ["d"]]


async def test_when_nobody_is_there_all_who_wait_hear_so_and_the_next_is_tried(
    road: Road, convoy: GroupCommit[str]
) -> None:
    waiting = await put(convoy, "a", share=1.0) + await put(convoy, "b", "c", share=1.0)
    road.arrive(Unreachable("gone"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == ["gone"] * 3
    assert road.loads == [["a"]]
    (later,) = await put(convoy, "d")
    road.arrive()
    await later


async def test_what_cannot_be_carried_is_no_fault_of_what_waits_behind_it(
    road: Road, convoy: GroupCommit[str]
) -> None:
    (large,) = await put(convoy, "a", share=1.0)
    (other,) = await put(convoy, "b")
    road.arrive(UsageError("too large"))
    with pytest.raises(UsageError, match="too large"):
        await large
    await turns()
    road.arrive()
    await other
    assert road.loads == [["a"], ["b"]]


async def test_who_gives_up_waiting_stops_nobody_else(road: Road, convoy: GroupCommit[str]) -> None:
    one, other = await put(convoy, "a", "b")
    one.cancel()
    with suppress(asyncio.CancelledError):
        await one
    road.arrive()
    await other
    assert road.loads == [["a", "b"]]


async def test_when_it_is_closed_who_waits_is_told(road: Road, convoy: GroupCommit[str]) -> None:
    waiting = await put(convoy, "a")
    waiting += await put(convoy, "b")
    convoy.close(TransportError("closed"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == ["closed"] * 2
    assert road.loads == [["a"]]


async def test_who_comes_when_it_is_closed_is_told_though_nothing_had_gone_yet(
    road: Road, convoy: GroupCommit[str]
) -> None:
    first = asyncio.create_task(convoy.put("a", 0.1))
    await asyncio.sleep(0)
    convoy.close(TransportError("closed"))
    with pytest.raises(TransportError, match="closed"):
        await first
    with pytest.raises(TransportError, match="closed"):
        await convoy.put("b", 0.1)
    assert not road.loads


@pytest.mark.usefixtures("heard")
async def test_after_several_in_one_the_next_wait_for_their_answer_and_go_together(
    road: Road, convoy: GroupCommit[str]
) -> None:
    waiting = await put(convoy, "a", "b")
    waiting += await put(convoy, "c")
    road.arrive()
    await turns()
    waiting += await put(convoy, "d")
    assert road.loads == [["a", "b"]]
    assert [one.done() for one in waiting] == [True, True, False, False]
    convoy.on_answered(is_latest=True)
    await turns()
    road.arrive()
    await asyncio.gather(*waiting)
    assert road.loads == [["a", "b"], ["c", "d"]]


@pytest.mark.usefixtures("heard")
async def test_an_answer_may_come_before_what_it_answers_has_arrived(
    road: Road, convoy: GroupCommit[str]
) -> None:
    first = await put(convoy, "a", "b")
    convoy.on_answered(is_latest=True)
    road.arrive()
    await asyncio.gather(*first)
    await put(convoy, "c")
    assert road.loads == [["a", "b"], ["c"]]


@pytest.mark.usefixtures("heard")
async def test_what_comes_one_after_the_other_waits_for_no_answer(
    road: Road, convoy: GroupCommit[str]
) -> None:
    for item in "abc":
        (sent,) = await put(convoy, item)
        road.arrive()
        await sent
    assert road.loads == [["a"], ["b"], ["c"]]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.6])
async def test_a_load_that_can_take_no_more_waits_for_no_answer(
    road: Road, convoy: GroupCommit[str], share: float, is_early: bool
) -> None:
    await put(convoy, "a", "b")
    await put(convoy, "c", share=0.5)
    if is_early:
        await put(convoy, "d", share=share)
    road.arrive()
    await turns()
    if not is_early:
        assert road.loads == [["a", "b"]]
        await put(convoy, "d", share=share)
    assert road.loads[1:] == [["c", "d"] if share == 0.5 else ["c"]]


@pytest.mark.usefixtures("heard")
async def test_an_answer_is_waited_for_for_so_long_since_what_it_answers_began_to_go(
    road: Road, convoy: GroupCommit[str], clock: SkippingLoop
) -> None:
    waiting = await put(convoy, "a", "b")
    clock.advance(999)
    waiting += await put(convoy, "c", "d")
    road.arrive()
    await turns()
    assert road.loads == [["a", "b"]]
    clock.advance(2)
    await turns()
    assert road.loads[1:] == [["c", "d"]]
    clock.advance(1001)
    road.arrive()
    await turns()
    assert [one.done() for one in waiting] == [True] * 4
    await put(convoy, "e")
    assert road.loads[2:] == [["e"]]


@pytest.mark.usefixtures("heard")
async def test_it_is_waited_for_each_time_that_several_have_gone(
    road: Road, convoy: GroupCommit[str]
) -> None:
    for name in "abc":
        await put(convoy, name + "1", name + "2")
        road.arrive()
        await turns()
        assert road.loads[-1] == [name + "1", name + "2"]
        await put(convoy, name + "3")
        assert road.loads[-1] == [name + "1", name + "2"]
        convoy.on_answered(is_latest=True)
        await turns()
        assert road.loads[-1] == [name + "3"]
        road.arrive()
        await turns()


@pytest.mark.usefixtures("held")
async def test_an_answer_to_what_went_before_the_last_load_lets_nothing_go(
    road: Road, convoy: GroupCommit[str]
) -> None:
    convoy.on_answered(is_latest=False)
    await turns()
    assert road.loads == [["a", "b"]]


@pytest.mark.usefixtures("held")
async def test_once_several_are_accepted_the_next_wait_as_long_again_as_that_took(
    road: Road, convoy: GroupCommit[str], clock: SkippingLoop
) -> None:
    clock.advance(100)
    convoy.on_accepted(is_latest=True)
    clock.advance(99)
    await turns()
    await put(convoy, "d")
    assert road.loads == [["a", "b"]]
    clock.advance(2)
    await turns()
    assert road.loads[1:] == [["c", "d"]]


@pytest.mark.usefixtures("held")
async def test_what_is_accepted_late_is_waited_for_no_longer_than_otherwise(
    road: Road, convoy: GroupCommit[str], clock: SkippingLoop
) -> None:
    clock.advance(900)
    convoy.on_accepted(is_latest=True)
    await turns()
    assert road.loads == [["a", "b"]]
    clock.advance(101)
    await turns()
    assert road.loads[1:] == [["c"]]


@pytest.mark.usefixtures("heard")
async def test_what_was_accepted_before_it_has_arrived_and_has_ended_is_not_waited_for(
    road: Road, convoy: GroupCommit[str], clock: SkippingLoop
) -> None:
    await put(convoy, "a", "b")
    clock.advance(100)
    convoy.on_accepted(is_latest=True)
    convoy.on_answered(is_latest=True)
    convoy.on_accepted(is_latest=True)
    road.arrive()
    await turns()
    await put(convoy, "c")
    assert road.loads == [["a", "b"], ["c"]]


@pytest.mark.usefixtures("held")
async def test_that_what_went_before_the_last_load_is_accepted_lets_nothing_go_sooner(
    road: Road, convoy: GroupCommit[str], clock: SkippingLoop
) -> None:
    convoy.on_accepted(is_latest=False)
    clock.advance(999)
    await turns()
    assert road.loads == [["a", "b"]]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("sign", [GroupCommit.on_accepted, GroupCommit.on_answered])
async def test_who_has_not_answered_for_a_while_is_not_waited_for_until_it_does(
    road: Road, convoy: GroupCommit[str], clock: SkippingLoop, sign: Callable[..., None]
) -> None:
    clock.advance(2001)
    for items in (["a", "b"], ["c", "d"]):
        await put(convoy, *items)
        road.arrive()
        await turns()
        assert road.loads[-1] == items
    sign(convoy, is_latest=False)
    await put(convoy, "e")
    assert road.loads == [["a", "b"], ["c", "d"]]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("count", [10, 1000])
async def test_shares_that_make_a_whole_fill_a_load(
    road: Road, convoy: GroupCommit[str], count: int
) -> None:
    await put(convoy, "a", "b")
    await put(convoy, *map(str, range(count)), share=1 / count)
    road.arrive()
    await turns()
    assert [len(load) for load in road.loads] == [2, count]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("error", [UsageError("too large"), Unreachable("gone")])
async def test_of_what_could_not_be_carried_no_answer_is_waited_for(
    road: Road, convoy: GroupCommit[str], error: Exception
) -> None:
    waiting = await put(convoy, "a", "b")
    road.arrive(error)
    waiting += await put(convoy, "c")
    road.arrive()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == [str(error), str(error), "None"]


@pytest.mark.usefixtures("heard")
async def test_when_it_is_closed_who_waits_for_an_answer_is_told(
    road: Road, convoy: GroupCommit[str]
) -> None:
    waiting = await put(convoy, "a", "b")
    road.arrive()
    waiting += await put(convoy, "c")
    convoy.close(TransportError("closed"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == ["None", "None", "closed"]
    convoy.on_answered(is_latest=True)
    await turns()
    assert road.loads == [["a", "b"]]
    assert not [one for one in asyncio.all_tasks() if one.get_name() == "convoy"]
