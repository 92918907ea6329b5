"""What comes while something is under way goes together, as the next load."""

import asyncio
from contextlib import suppress

import pytest

from skillq.convoy import Convoy
from skillq.errors import TransportError, Unreachable, UsageError


class Road:
    """Loads that are under way until somebody lets them arrive."""

    def __init__(self) -> None:
        self.loads: list[list[str]] = []
        self._arrivals: list[asyncio.Future[None]] = []

    async def carry(self, items: list[str]) -> None:
        self.loads.append(items)
        self._arrivals.append(asyncio.get_running_loop().create_future())
        await self._arrivals[-1]

    def arrive(self, error: Exception | None = None) -> None:
        self._arrivals[-1].set_result(None) if error is None else self._arrivals[-1].set_exception(
            error
        )


@pytest.fixture
def road() -> Road:
    return Road()


@pytest.fixture
def convoy(road: Road) -> Convoy[str]:
    return Convoy(road.carry)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def put(convoy: Convoy[str], *items: str, share: float = 0.1) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(convoy.put(item, share)) for item in items]
    await turns()
    return tasks


async def test_what_comes_alone_goes_at_once_and_what_comes_meanwhile_goes_together(
    road: Road, convoy: Convoy[str]
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
    last = await put(convoy, "d")
    road.arrive()
    await asyncio.gather(*last)
    assert road.loads[2:] == [["d"]]


async def test_a_load_takes_no_more_than_it_has_room_for(road: Road, convoy: Convoy[str]) -> None:
    waiting = await put(convoy, "a")
    waiting += await put(convoy, "b", "c", "d", share=0.4)
    for _ in range(3):
        road.arrive()
        await turns()
    await asyncio.gather(*waiting)
    assert road.loads == [["a"], ["b", "c"], ["d"]]


async def test_when_nobody_is_there_all_who_wait_hear_so_and_the_next_is_tried(
    road: Road, convoy: Convoy[str]
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
    road: Road, convoy: Convoy[str]
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


async def test_who_gives_up_waiting_stops_nobody_else(road: Road, convoy: Convoy[str]) -> None:
    one, other = await put(convoy, "a", "b")
    one.cancel()
    with suppress(asyncio.CancelledError):
        await one
    road.arrive()
    await other
    assert road.loads == [["a", "b"]]


async def test_when_it_is_closed_who_waits_is_told(road: Road, convoy: Convoy[str]) -> None:
    waiting = await put(convoy, "a")
    waiting += await put(convoy, "b")
    convoy.close(TransportError("closed"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in outcomes] == ["closed"] * 2
    assert road.loads == [["a"]]


async def test_who_comes_when_it_is_closed_is_told_though_nothing_had_gone_yet(
    road: Road, convoy: Convoy[str]
) -> None:
    first = asyncio.create_task(convoy.put("a", 0.1))
    await asyncio.sleep(0)
    convoy.close(TransportError("closed"))
    with pytest.raises(TransportError, match="closed"):
        await first
    with pytest.raises(TransportError, match="closed"):
        await convoy.put("b", 0.1)
    assert not road.loads
