"""What comes while something is under way goes together, as the next load."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Generic, TypeVar

from skillq import timings
from skillq.errors import Unreachable

_TINY = 1e-9  # what a sum of shares may be off by

Item = TypeVar("Item")


class _Load(Generic[Item]):
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.room = 1.0
        self._waiting: list[asyncio.Future[None]] = []

    def arrival(self) -> asyncio.Future[None]:
        """For one who waits: who gives up cancels it, and stops nobody else."""
        arrival = asyncio.get_running_loop().create_future()
        self._waiting.append(arrival)
        return arrival

    def arrive(self) -> None:
        for arrival in self._waiting:
            if not arrival.done():
                arrival.set_result(None)

    def fail(self, error: Exception) -> None:
        for arrival in self._waiting:
            if not arrival.done():
                arrival.set_exception(error)


class Convoy(Generic[Item]):
    """`carry` is given one load after the other, each when the one before has arrived.

    It returns whether several have gone, of which an answer is to come. Then the next load waits for that, too, unless it is
    full, as in Nagle's algorithm (RFC 896); but not for long, and once they are accepted, only as long again as that took. So
    loads grow with the traffic, as in a group commit, and who puts one item after the other is not held up.
    """

    def __init__(self, carry: Callable[[list[Item]], Awaitable[bool]]) -> None:
        self._carry = carry
        self._loads: deque[_Load[Item]] = deque()  # that wait, in the order of their items
        self._current: _Load[Item] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._left_at = self._held_until = 0.0  # by the loop's clock
        self._answered_at = -inf
        self._let_go = asyncio.Event()
        self._closed: Exception | None = None

    async def put(self, item: Item, share: float) -> None:
        """Return when it has arrived. `share` is how much of a load it takes, at most 1: then it goes alone.

        Raises:
            Unreachable: `carry` has raised it, of this load or of one before it.
            Exception: what else it has raised of this load; or why it was closed.
        """
        if self._closed is not None:
            raise self._closed
        if not self._loads or self._loads[-1].room < share - _TINY:
            self._loads.append(_Load())
        load = self._loads[-1]
        load.items.append(item)
        load.room -= share
        if self._is_full:
            self._let_go.set()
        if self._moving is None:
            self._moving = asyncio.create_task(self._move(), name="convoy")
        await load.arrival()

    def accepted(self, *, is_latest: bool) -> None:
        """The load that went last, or one before it, has been taken in; what is to come of it is under way."""
        self._answered_at = now = _now()
        if is_latest:
            self._hold_until(min(self._held_until, now + (now - self._left_at)))

    def answered(self, *, is_latest: bool) -> None:
        """What was to come has come, of the load that went last or of one before it."""
        self._answered_at = _now()
        if is_latest:
            self._hold_until(0.0)

    def _hold_until(self, at: float) -> None:
        self._held_until = at
        self._let_go.set()

    def close(self, error: Exception) -> None:
        """Carry nothing more; who waits is told, and who comes."""
        self._closed = error
        if self._moving is not None:
            self._moving.cancel()
        self._fail(error)

    async def _move(self) -> None:
        try:
            while self._loads:
                await self._wait_for_more()
                self._current = load = self._loads.popleft()
                await self._move_one(load)
        finally:
            self._moving = self._current = None

    @property
    def _is_full(self) -> bool:
        """Whether the next load can take no more."""
        return len(self._loads) > 1 or self._loads[0].room < _TINY

    async def _wait_for_more(self) -> None:
        if _now() - self._answered_at > timings.GROUP_COMMIT_AWAY_SECONDS:
            return  # nobody may be there
        with suppress(TimeoutError):  # a clock may be coarse: once is enough
            while self._held_until > _now() and not self._is_full:
                self._let_go.clear()
                async with asyncio.timeout_at(self._held_until):
                    await self._let_go.wait()

    async def _move_one(self, load: _Load[Item]) -> None:
        # Its answer may be here before it has arrived.
        self._left_at = _now()
        self._held_until = self._left_at + timings.GROUP_COMMIT_WAIT_SECONDS
        try:
            are_several = await self._carry(load.items)
        except Unreachable as error:
            self._fail(error)  # all: the next would wait as long for the same
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits hears of it
            load.fail(error)
        else:
            load.arrive()
            if are_several:
                return
        self._held_until = 0.0

    def _fail(self, error: Exception) -> None:
        loads, self._loads = self._loads, deque()
        for load in (self._current, *loads):
            if load is not None:
                load.fail(error)


def _now() -> float:
    return asyncio.get_running_loop().time()
