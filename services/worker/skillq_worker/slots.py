"""Attempts of one worker: those that run, one a slot, and those that wait for one, in the order they came."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from skillq.messages import TaskAssignment

Attempt = tuple[str, str, int]  # run, id, attempt


class Slots:
    """A slot makes one attempt after the other, in one asyncio task, as long as any wait.

    Nothing is begun while `may_begin` is not set. `all_begun` is set while none wait.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[Attempt, TaskAssignment], Coroutine[Any, Any, None]],
        may_begin: asyncio.Event,
    ) -> None:
        self._count = count
        self._make = make
        self._may_begin = may_begin
        self._waiting: OrderedDict[Attempt, TaskAssignment] = OrderedDict()
        self._running: dict[Attempt, asyncio.Task[None]] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self.all_begun = asyncio.Event()
        self.all_begun.set()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def free(self) -> int:
        """Slots for which nothing is there."""
        return max(0, self._count - len(self._running) - len(self._waiting))

    def add(self, attempt: Attempt, task: TaskAssignment) -> None:
        self._waiting[attempt] = task
        self.all_begun.clear()
        self._fill()

    def take_back(self, attempt: Attempt) -> bool:
        """Forget an attempt that has not begun; False where it has, or is not there."""
        there = self._waiting.pop(attempt, None) is not None
        self._note_begun()
        return there

    def take_back_all(self) -> list[Attempt]:
        waiting = list(self._waiting)
        self._waiting.clear()
        self._note_begun()
        return waiting

    def abort(self, attempt: Attempt) -> bool:
        """End an attempt, begun or not; False where it is not there."""
        if self.take_back(attempt):
            return True
        slot = self._running.get(attempt)
        return slot is not None and slot.cancel()

    async def finished(self) -> None:
        """Wait until nothing runs any more of what runs now."""
        if self._running:
            await asyncio.wait(self._running.values())

    async def close(self) -> None:
        """End all."""
        self.take_back_all()
        slots = list(self._busy)
        for slot in slots:
            slot.cancel()
        await asyncio.gather(*slots, return_exceptions=True)

    def _note_begun(self) -> None:
        if not self._waiting:
            self.all_begun.set()

    def _fill(self) -> None:
        if self._waiting and len(self._busy) < self._count:
            slot = asyncio.create_task(self._work(), name="slot")
            self._busy.add(slot)
            slot.add_done_callback(self._over)

    def _over(self, slot: asyncio.Task[None]) -> None:
        """It found nothing more, or an attempt was aborted, and the slot with it."""
        self._busy.discard(slot)
        self._fill()

    async def _work(self) -> None:
        slot = asyncio.current_task()
        assert slot is not None  # noqa: S101 - this is a coroutine
        while self._waiting:
            if not self._may_begin.is_set():
                await self._may_begin.wait()
                continue  # they may have been taken back meanwhile
            attempt, task = self._waiting.popitem(last=False)
            self._note_begun()
            self._running[attempt] = slot
            try:
                await self._make(attempt, task)
            finally:
                # An attempt of another store may have this one's number, and its place.
                if self._running.get(attempt) is slot:
                    del self._running[attempt]
