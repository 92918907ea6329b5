"""What comes while something is under way goes together, as the next load."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Generic, TypeVar

from skillq import timings
from skillq.errors import Unreachable

_ROUNDING_ERROR = 1e-9  # what a sum of shares may be off by

Item = TypeVar("Item")


class _Batch(Generic[Item]):
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.room = 1.0
        self._futures: list[asyncio.Future[None]] = []

    def published_future(self) -> asyncio.Future[None]:
        """For one who waits: who gives up cancels it, and stops nobody else."""
        arrival = asyncio.get_running_loop().create_future()
        self._futures.append(arrival)
        return arrival

    def mark_published(self) -> None:
        for arrival in self._futures:
            if not arrival.done():
                arrival.set_result(None)

    def mark_failed(self, error: Exception) -> None:
        for arrival in self._futures:
            if not arrival.done():
                arrival.set_exception(error)


class GroupCommit(Generic[Item]):
    """`carry` is given one load after the other, each when the one before has arrived.

    It returns whether several have gone, of which an answer is to come. Then the next load waits for that, too, unless it is
    full, as in Nagle's algorithm (RFC 896); but not for long, and once they are accepted, only as long again as that took. So
    loads grow with the traffic, as in a group commit, and who puts one item after the other is not held up.
    """

    def __init__(self, carry: Callable[[list[Item]], Awaitable[bool]]) -> None:
        self._publish = carry
        self._batches: deque[_Batch[Item]] = deque()  # that wait, in the order of their items
        self._current: _Batch[Item] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._published_at = self._held_until = 0.0  # by the loop's clock
        self._answered_at = -inf
        self._hold_changed = asyncio.Event()
        self._closed: Exception | None = None

    async def put(self, item: Item, share: float) -> None:
        """Return when it has arrived. `share` is how much of a load it takes, at most 1: then it goes alone.

        Raises:
            Unreachable: `carry` has raised it, of this load or of one before it.
            Exception: what else it has raised of this load; or why it was closed.
        """
        if self._closed is not None:
            raise self._closed
        if not self._batches or self._batches[-1].room < share - _ROUNDING_ERROR:
            self._batches.append(_Batch())
        load = self._batches[-1]
        load.items.append(item)
        load.room -= share
        if self._is_full:
            self._hold_changed.set()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="convoy")
        await load.published_future()

    def on_accepted(self, *, is_latest: bool) -> None:
        """The load that went last, or one before it, has been taken in; what is to come of it is under way."""
        self._answered_at = now = _now()
        if is_latest:
            self._hold_until(min(self._held_until, now + (now - self._published_at)))

    def on_answered(self, *, is_latest: bool) -> None:
        """What was to come has come, of the load that went last or of one before it."""
        self._answered_at = _now()
        if is_latest:
            self._hold_until(0.0)

    def _hold_until(self, at: float) -> None:
        self._held_until = at
        self._hold_changed.set()

    def close(self, error: Exception) -> None:
        """Carry nothing more; who waits is told, and who comes."""
        self._closed = error
        if self._sender is not None:
            self._sender.cancel()
        self._fail(error)

    async def _send_all(self) -> None:
        try:
            while self._batches:
                await self._wait_for_more()
                self._current = load = self._batches.popleft()
                await self._send_batch(load)
        finally:
            self._sender = self._current = None

    @property
    def _is_full(self) -> bool:
        """Whether the next load can take no more."""
        return len(self._batches) > 1 or self._batches[0].room < _ROUNDING_ERROR

    async def _wait_for_more(self) -> None:
        if _now() - self._answered_at > timings.GROUP_COMMIT_ABSENT_SECONDS:
            return  # nobody may be there
        with suppress(TimeoutError):  # a clock may be coarse: once is enough
            while self._held_until > _now() and not self._is_full:
                self._hold_changed.clear()
                async with asyncio.timeout_at(self._held_until):
                    await self._hold_changed.wait()

    async def _send_batch(self, load: _Batch[Item]) -> None:
        # Its answer may be here before it has arrived.
        self._published_at = _now()
        self._held_until = self._published_at + timings.GROUP_COMMIT_WAIT_SECONDS
        try:
            are_several = await self._publish(load.items)
        except Unreachable as error:
            self._fail(error)  # all: the next would wait as long for the same
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits hears of it
            load.mark_failed(error)
        else:
            load.mark_published()
            if are_several:
                return
        self._held_until = 0.0

    def _fail(self, error: Exception) -> None:
        loads, self._batches = self._batches, deque()
        for load in (self._current, *loads):
            if load is not None:
                load.mark_failed(error)


def _now() -> float:
    return asyncio.get_running_loop().time()
