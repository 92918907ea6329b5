"""Keep the attempts of one worker: one running attempt per slot, and waiting attempts.

See docs/adr/0019-run-the-next-attempt-on-the-handler-thread.md.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, Self, TypeVar

from skillq.messages import TaskAssignment

Attempt = tuple[str, str, int]  # run, id, attempt


class RunnableAttempt(Protocol):
    """An attempt that has a slot.

    `successor` gets the slot when this attempt has ended, and may have started already.
    """

    attempt: Attempt
    assignment: TaskAssignment
    successor: Self | None
    has_started: bool

    def start(self) -> None:
        """Start the attempt, or note that it has started."""
        ...

    def cancel(self) -> object:
        """Cancel the attempt."""
        ...


RunT = TypeVar("RunT", bound=RunnableAttempt)


class AttemptSlots(Generic[RunT]):
    """Starts waiting attempts in the order of their arrival, one per free slot.

    No attempt starts while `may_start` returns False. `none_waiting` is set while no attempt waits.
    """

    def __init__(
        self,
        count: int,
        new_run: Callable[[Attempt, TaskAssignment], RunT],
        may_start: Callable[[], bool],
    ) -> None:
        self._count = count
        self._new_run = new_run
        self._may_start = may_start
        # Any thread may take an attempt: one call of `pop` or `popitem` takes it from the queue atomically.
        self._waiting: OrderedDict[Attempt, TaskAssignment] = OrderedDict()
        self._running: dict[Attempt, RunT] = {}  # without cancelled attempts
        self._busy_slots = 0  # a cancelled attempt keeps its slot until it has ended
        self._is_filling = self._is_closed = False
        self._attempt_ended = asyncio.Event()
        self.none_waiting = asyncio.Event()
        self.none_waiting.set()

    @property
    def running(self) -> int:
        """The number of busy slots."""
        return self._busy_slots

    @property
    def free(self) -> int:
        """The number of slots without a running or a waiting attempt."""
        return max(0, self._count - self._busy_slots - len(self._waiting))

    def add_attempt(self, attempt: Attempt, task: TaskAssignment) -> None:
        """Add an attempt to the queue, and start it as soon as a slot is free."""
        self._waiting[attempt] = task
        self.none_waiting.clear()
        self.fill()

    def remove_waiting(self, attempt: Attempt) -> bool:
        """Remove an attempt from the queue; return whether it was waiting."""
        was_waiting = self._waiting.pop(attempt, None) is not None
        self._update_none_waiting()
        return was_waiting

    def remove_all_waiting(self) -> list[Attempt]:
        """Remove all attempts from the queue and return them."""
        removed = []
        with suppress(KeyError):
            while True:
                attempt, _ = self._waiting.popitem(last=False)
                removed.append(attempt)
        self._update_none_waiting()
        return removed

    def cancel_attempt(self, attempt: Attempt) -> bool:
        """Cancel a waiting or running attempt; return whether the worker had it."""
        if self.remove_waiting(attempt):
            return True
        # Removed at once: an attempt of another store may arrive with the same number.
        attempt_run = self._running.pop(attempt, None)
        if attempt_run is not None:
            attempt_run.cancel()
        return attempt_run is not None

    def on_attempt_ended(self, attempt_run: RunT) -> None:
        """Give the slot of an ended attempt to its successor, or to the next waiting attempt."""
        if self._running.get(attempt_run.attempt) is attempt_run:
            del self._running[attempt_run.attempt]
        successor = attempt_run.successor
        attempt_run.successor = None  # a reference to one run must not keep all later runs alive
        if successor is not None and (successor.has_started or self._may_start()):
            self._start(successor)
            self._update_none_waiting()
            return
        if successor is not None:
            self._put_back(successor)
        self._busy_slots -= 1
        self._attempt_ended.set()
        self._fill()

    async def wait_until_idle(self) -> None:
        """Wait until no attempt runs."""
        while self._busy_slots:
            self._attempt_ended.clear()
            await self._attempt_ended.wait()

    async def close(self) -> None:
        """Remove waiting attempts, cancel running attempts, and wait until all have ended."""
        self._is_closed = True
        self.remove_all_waiting()
        for attempt in list(self._running):
            self.cancel_attempt(attempt)
        await self.wait_until_idle()

    def take_waiting(self) -> RunT | None:
        """Return a run of the next waiting attempt, or None; callable from any thread.

        The caller has a slot for the attempt: a free slot, or the slot of an attempt that has ended.
        """
        if not self._may_start():
            return None
        try:
            attempt, task = self._waiting.popitem(last=False)
        except KeyError:
            return None
        return self._new_run(attempt, task)

    def fill(self) -> None:
        """Start waiting attempts in the next iteration of the event loop.

        By then the worker has handled all messages that arrived together.
        """
        if not self._is_filling:
            self._is_filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._is_filling = False
        while self._busy_slots < self._count and (attempt_run := self.take_waiting()) is not None:
            self._busy_slots += 1
            self._start(attempt_run)
        self._update_none_waiting()

    def _start(self, attempt_run: RunT) -> None:
        self._running[attempt_run.attempt] = attempt_run
        attempt_run.start()
        if self._is_closed:
            attempt_run.cancel()

    def _put_back(self, attempt_run: RunT) -> None:
        """Put an attempt back in front of the queue, because no attempt may start now.

        The process was stalled after `take_waiting` had returned the attempt. While no attempt may start,
        no other thread takes the attempt from the queue.
        """
        if attempt_run.attempt in self._waiting:
            return  # an equal attempt of another store waits: the older one is obsolete
        self._waiting[attempt_run.attempt] = attempt_run.assignment
        self._waiting.move_to_end(attempt_run.attempt, last=False)
        self.none_waiting.clear()

    def _update_none_waiting(self) -> None:
        if not self._waiting:
            self.none_waiting.set()
