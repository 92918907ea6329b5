"""Attempts of one worker: those that run, one a slot, and those that wait for one, in the order they came."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from skillq.messages import TaskAssignment

Attempt = tuple[str, str, int]  # run, id, attempt


class Running(Protocol):
    """An attempt that has begun."""

    def cancel(self) -> object: ...


class Slots:
    """Begins what waits, as many at a time as there are slots. Whoever begins one says when it is `over`.

    Nothing is begun while `may_begin` is not set. `all_begun` is set while none wait.
    """

    def __init__(
        self,
        count: int,
        begin: Callable[[Attempt, TaskAssignment], Running],
        may_begin: asyncio.Event,
    ) -> None:
        self._count = count
        self._begin = begin
        self._may_begin = may_begin
        self._waiting: OrderedDict[Attempt, TaskAssignment] = OrderedDict()
        self._running: dict[Attempt, Running] = {}  # but for those that were aborted
        self._busy = 0  # slots; an attempt that was aborted has its own until it is over
        self._is_filling = False
        self._one_is_over = asyncio.Event()
        self.all_begun = asyncio.Event()
        self.all_begun.set()

    @property
    def running(self) -> int:
        return self._busy

    @property
    def free(self) -> int:
        """Slots for which nothing is there."""
        return max(0, self._count - self._busy - len(self._waiting))

    def add(self, attempt: Attempt, task: TaskAssignment) -> None:
        self._waiting[attempt] = task
        self.all_begun.clear()
        self.fill()

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
        # Out of the way: one of another store may come, with this one's number.
        running = self._running.pop(attempt, None)
        if running is not None:
            running.cancel()
        return running is not None

    def over(self, attempt: Attempt, running: Running) -> None:
        if self._running.get(attempt) is running:
            del self._running[attempt]
        self._busy -= 1
        self._one_is_over.set()
        self._fill()

    async def finished(self) -> None:
        """Wait until nothing runs any more."""
        while self._busy:
            self._one_is_over.clear()
            await self._one_is_over.wait()

    async def close(self) -> None:
        """End all."""
        self.take_back_all()
        for attempt in list(self._running):
            self.abort(attempt)
        await self.finished()

    def fill(self) -> None:
        """Begin what may begin, in the next turn of the loop: all of this one has been heard then."""
        if not self._is_filling:
            self._is_filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._is_filling = False
        while self._waiting and self._busy < self._count and self._may_begin.is_set():
            attempt, task = self._waiting.popitem(last=False)
            self._busy += 1
            self._running[attempt] = self._begin(attempt, task)
        self._note_begun()

    def _note_begun(self) -> None:
        if not self._waiting:
            self.all_begun.set()
