"""Attempts of one worker: those that run, one a slot, and those that wait for one, in the order they came."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, Self, TypeVar

from skillq.messages import TaskAssignment

Attempt = tuple[str, str, int]  # run, id, attempt


class RunnableAttempt(Protocol):
    """An attempt that has a slot. `following` has it after this one, and may have begun already."""

    attempt: Attempt
    task: TaskAssignment
    following: Self | None
    has_started: bool

    def start(self) -> None: ...

    def cancel(self) -> object: ...


M = TypeVar("M", bound=RunnableAttempt)


class AttemptSlots(Generic[M]):
    """Begins what waits, as many at a time as there are slots; each says when it is `over`.

    Nothing is begun unless it `may_begin`. `all_begun` is set while none wait.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[Attempt, TaskAssignment], M],
        may_begin: Callable[[], bool],
    ) -> None:
        self._count = count
        self._make = make
        self._may_begin = may_begin
        # Any thread may `take` one. Whoever gets one out of it, by one call, has it.
        self._waiting: OrderedDict[Attempt, TaskAssignment] = OrderedDict()
        self._running: dict[Attempt, M] = {}  # but for those that were aborted
        self._busy = 0  # slots; an attempt that was aborted has its own until it is over
        self._is_filling = self._is_closed = False
        self._one_is_over = asyncio.Event()
        self.none_waiting = asyncio.Event()
        self.none_waiting.set()

    @property
    def running(self) -> int:
        return self._busy

    @property
    def free(self) -> int:
        """Slots for which nothing is there."""
        return max(0, self._count - self._busy - len(self._waiting))

    def add_attempt(self, attempt: Attempt, task: TaskAssignment) -> None:
        self._waiting[attempt] = task
        self.none_waiting.clear()
        self.fill()

    def take_back(self, attempt: Attempt) -> bool:
        """Forget an attempt that has not begun; False where it has, or is not there."""
        there = self._waiting.pop(attempt, None) is not None
        self._note_begun()
        return there

    def take_back_all(self) -> list[Attempt]:
        waiting = []
        with suppress(KeyError):
            while True:
                attempt, _ = self._waiting.popitem(last=False)
                waiting.append(attempt)
        self._note_begun()
        return waiting

    def cancel_attempt(self, attempt: Attempt) -> bool:
        """End an attempt, begun or not; False where it is not there."""
        if self.take_back(attempt):
            return True
        # Out of the way: one of another store may come, with this one's number.
        running = self._running.pop(attempt, None)
        if running is not None:
            running.cancel()
        return running is not None

    def on_attempt_over(self, one: M) -> None:
        if self._running.get(one.attempt) is one:
            del self._running[one.attempt]
        following = one.following
        one.following = None  # whoever keeps one is not to keep all after it
        if following is not None and (following.has_started or self._may_begin()):
            self._start(following)
            self._note_begun()
            return
        if following is not None:
            self._put_back(following)
        self._busy -= 1
        self._one_is_over.set()
        self._fill()

    async def wait_until_idle(self) -> None:
        """Wait until nothing runs any more."""
        while self._busy:
            self._one_is_over.clear()
            await self._one_is_over.wait()

    async def close(self) -> None:
        """End all."""
        self._is_closed = True
        self.take_back_all()
        for attempt in list(self._running):
            self.cancel_attempt(attempt)
        await self.wait_until_idle()

    def take_waiting(self) -> M | None:
        """The next that waits, for a slot that is free, or whose attempt has ended; on any thread."""
        if not self._may_begin():
            return None
        try:
            attempt, task = self._waiting.popitem(last=False)
        except KeyError:
            return None
        return self._make(attempt, task)

    def fill(self) -> None:
        """Begin what may begin, in the next turn of the loop: all of this one has been heard then."""
        if not self._is_filling:
            self._is_filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._is_filling = False
        while self._busy < self._count and (one := self.take_waiting()) is not None:
            self._busy += 1
            self._start(one)
        self._note_begun()

    def _start(self, one: M) -> None:
        self._running[one.attempt] = one
        one.start()
        if self._is_closed:
            one.cancel()

    def _put_back(self, one: M) -> None:
        """It was to begin here, and we have stood still since: it waits again, before all others.

        Nothing may begin now, so nobody takes it away meanwhile.
        """
        if one.attempt in self._waiting:
            return  # another store's, of the same name: ours is nobody's any more
        self._waiting[one.attempt] = one.task
        self._waiting.move_to_end(one.attempt, last=False)
        self.none_waiting.clear()

    def _note_begun(self) -> None:
        if not self._waiting:
            self.none_waiting.set()
