"""Group commit: items that arrive while a batch is being published form the next batch.

See docs/adr/0021-group-commit-submissions.md and
docs/adr/0022-nagle-delay-for-grouped-submissions.md.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Generic, TypeVar

from skillq import timings
from skillq.errors import Unreachable

_ROUNDING_ERROR = 1e-9  # largest error of a sum of shares

Item = TypeVar("Item")


class _Batch(Generic[Item]):
    """Items that are published together, and the callers that wait for them."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.room = 1.0
        self._futures: list[asyncio.Future[None]] = []

    def published_future(self) -> asyncio.Future[None]:
        """Return a future for one caller; the caller may cancel it without an effect on others."""
        future = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return future

    def mark_published(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)

    def mark_failed(self, error: Exception) -> None:
        for future in self._futures:
            if not future.done():
                future.set_exception(error)


class GroupCommit(Generic[Item]):
    """Publishes one batch after the other, each when the one before is confirmed.

    `publish` returns whether the batch had several items and an answer is to come. Then the next batch waits for
    that answer, too, unless it is full, as in Nagle's algorithm (RFC 896). The wait is short; once the batch is
    accepted, the next one waits only as long again as the acceptance took. So batches grow with the traffic, and
    a caller that puts one item after the other is not delayed.
    """

    def __init__(self, publish: Callable[[list[Item]], Awaitable[bool]]) -> None:
        self._publish = publish
        self._batches: deque[_Batch[Item]] = (
            deque()
        )  # batches that wait, in the order of their items
        self._current: _Batch[Item] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._published_at = self._held_until = 0.0  # by the loop's clock
        self._answered_at = -inf
        self._hold_changed = asyncio.Event()
        self._closed: Exception | None = None

    async def put(self, item: Item, share: float) -> None:
        """Add an item; return when its batch is published.

        `share` is the part of a full batch that the item takes; at 1, the item has a batch of its own.

        Raises:
            Unreachable: `publish` raised it for this batch or for an earlier one.
            Exception: any other error that `publish` raised for this batch, or the error given to `close`.
        """
        if self._closed is not None:
            raise self._closed
        if not self._batches or self._batches[-1].room < share - _ROUNDING_ERROR:
            self._batches.append(_Batch())
        batch = self._batches[-1]
        batch.items.append(item)
        batch.room -= share
        if self._is_full:
            self._hold_changed.set()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="group commit")
        await batch.published_future()

    def on_accepted(self, *, is_latest: bool) -> None:
        """Shorten the wait after a batch was accepted; the answer to it is still to come."""
        self._answered_at = now = _now()
        if is_latest:
            self._hold_until(min(self._held_until, now + (now - self._published_at)))

    def on_answered(self, *, is_latest: bool) -> None:
        """End the wait after the answer to the latest batch; note an answer to an earlier one."""
        self._answered_at = _now()
        if is_latest:
            self._hold_until(0.0)

    def _hold_until(self, at: float) -> None:
        self._held_until = at
        self._hold_changed.set()

    def close(self, error: Exception) -> None:
        """Publish nothing more; raise `error` in all callers that wait, and in later ones."""
        self._closed = error
        if self._sender is not None:
            self._sender.cancel()
        self._fail(error)

    async def _send_all(self) -> None:
        try:
            while self._batches:
                await self._wait_for_more()
                self._current = batch = self._batches.popleft()
                await self._send_batch(batch)
        finally:
            self._sender = self._current = None

    @property
    def _is_full(self) -> bool:
        """Whether the next batch is full."""
        return len(self._batches) > 1 or self._batches[0].room < _ROUNDING_ERROR

    async def _wait_for_more(self) -> None:
        if _now() - self._answered_at > timings.GROUP_COMMIT_ABSENT_SECONDS:
            return  # there may be no manager
        with suppress(
            TimeoutError
        ):  # a coarse clock may end the wait early: no second wait is needed
            while self._held_until > _now() and not self._is_full:
                self._hold_changed.clear()
                async with asyncio.timeout_at(self._held_until):
                    await self._hold_changed.wait()

    async def _send_batch(self, batch: _Batch[Item]) -> None:
        # The answer may come before the confirm.
        self._published_at = _now()
        self._held_until = self._published_at + timings.GROUP_COMMIT_WAIT_SECONDS
        try:
            expects_answer = await self._publish(batch.items)
        except Unreachable as error:
            self._fail(error)  # all batches: the next one would wait as long and fail as well
        except Exception as error:  # noqa: BLE001 - callers that wait get any error
            batch.mark_failed(error)
        else:
            batch.mark_published()
            if expects_answer:
                return
        self._held_until = 0.0

    def _fail(self, error: Exception) -> None:
        batches, self._batches = self._batches, deque()
        for batch in (self._current, *batches):
            if batch is not None:
                batch.mark_failed(error)


def _now() -> float:
    return asyncio.get_running_loop().time()
