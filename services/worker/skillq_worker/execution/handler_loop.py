"""Users' coroutines on one loop in a thread of its own, and what passes between that loop and the worker's.

To cross to the other loop and back takes longer than a short task does. So what is handed over together crosses
together; and what has ended is followed there, at once, by what waited for its slot. The worker hears of that a
little later. See docs/adr/0019-run-the-next-attempt-on-the-handler-thread.md.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Generic, Protocol, Self, TypeVar

import structlog

from skillq import timings
from skillq.runtime.logs import Log
from skillq_worker.execution.threads import ordinary

_ENDED = (
    "users' code has stopped the loop of all async handlers: none of them can run any more; "
    "mend it, and start this worker anew"
)

T = TypeVar("T")
Item = TypeVar("Item")

log = structlog.get_logger()


class LoopCall(Protocol[T]):
    """What is to be done on the users' loop."""

    task: asyncio.Task[None] | None  # there, from its begin on

    async def work(self) -> T: ...

    def on_done(self, output: T | None, error: BaseException | None) -> None:
        """Hear once how it ended, on the loop of who began it."""
        ...

    def next_call(self) -> "LoopCall[T] | None":
        """On the users' loop: it has ended, and this one begins there in its place."""
        ...


class HandlerLoop(Generic[T]):
    """Does errands for the loop on which it is entered."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: code that blocks it must not keep the process from leaving.
        self._thread = threading.Thread(target=self._run_loop, name="handlers", daemon=True)
        self._calls: set[LoopCall[T]] = set()  # that have not ended
        self._is_leaving = self._is_ending = self._has_ended = False
        self._is_sending = False
        self._is_watched = False  # the worker looks by itself at what has ended

    def __enter__(self) -> Self:
        self._home, self._abroad = _LoopSide(asyncio.get_running_loop()), _LoopSide(self._loop)
        self._there = _CrossLoopQueue(self._abroad, self._arrive)
        self._back = _CrossLoopQueue(self._home, self._return)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_leaving = True
        self._abroad.call(self._loop.stop)
        self._thread.join(timings.HANDLER_LOOP_END_SECONDS)

    def start(self, errand: LoopCall[T]) -> Callable[[], bool]:
        """Begin it, and return what calls it off."""
        self._calls.add(errand)
        if self._has_ended:
            self._home.loop.call_soon(self._end)
        else:
            self._send(errand)
        return partial(self.cancel_call, errand)

    def cancel_call(self, errand: LoopCall[T]) -> bool:
        """Whether it had not ended. Nobody waits until it has."""
        if not self._claim(errand):
            return False
        self._send(errand)
        self._home.loop.call_soon(errand.on_done, None, asyncio.CancelledError())
        return True

    def _send(self, errand: LoopCall[T]) -> None:
        """All of one turn together."""
        self._there.put(errand)
        if not self._is_sending:
            self._is_sending = True
            self._home.loop.call_soon(self._wake_there)

    def _wake_there(self) -> None:
        self._is_sending = False
        self._there.wake()

    def _return(self, end: "_End[T]") -> None:
        errand, output, error, is_followed = end
        if is_followed and not self._is_watched:
            self._is_watched = True
            self._home.loop.call_later(timings.HANDLER_LOOP_POLL_SECONDS, self._look)
        errand.on_done(output, error)

    def _look(self) -> None:
        self._is_watched = False  # before the look: what is put after it wakes us
        self._back.take_all()

    def _end(self) -> None:
        """Users' code has ended the loop: nothing that was handed over will be heard of."""
        self._has_ended = True
        self._back.take_all()
        for errand in list(self._calls):
            if self._claim(errand):
                errand.on_done(None, RuntimeError("the loop of all handlers has ended"))

    # --- on both threads

    def _claim(self, errand: LoopCall[T]) -> bool:
        """Whoever is first, the one that ends it or the one that calls it off, says what becomes of it."""
        try:
            self._calls.remove(errand)
        except KeyError:
            return False
        return True

    # --- on the other thread

    def _run_loop(self) -> None:
        # Users' code may stop it while it is closed, too.
        with suppress(RuntimeError), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.get_loop().run_forever()
            finally:
                self._is_ending = True  # it runs once more, to cancel what is left on it
                if not self._is_leaving:
                    log.warning(Log.HANDLER_LOOP_STOPPED, reason=_ENDED)
                self._home.call(self._end)  # at once: to close it may take for ever

    def _arrive(self, errand: LoopCall[T]) -> None:
        """It comes once to begin, and once more when it was called off, maybe on its way."""
        if errand.task is not None:
            errand.task.cancel()
        elif errand in self._calls and not self._is_ending:
            self._start_call(errand)

    def _start_call(self, errand: LoopCall[T]) -> None:
        # Not by the loop's task factory: an eager one would run it within the last step of another.
        context = self._abroad.context.copy()
        errand.task = task = _HandlerTask(self._run(errand), loop=self._loop, context=context)
        task.cancelled_early = self._cancelled_early

    def _cancelled_early(self, task: asyncio.Task[None]) -> None:
        for errand in list(self._calls):
            if errand.task is task:
                self._over(errand, None, asyncio.CancelledError())

    async def _run(self, errand: LoopCall[T]) -> None:
        try:
            output = await errand.work()
        except asyncio.CancelledError as error:
            self._over(errand, None, error)
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop of all handlers
            self._over(errand, None, ordinary(error))
        else:
            self._over(errand, output, None)

    def _over(self, errand: LoopCall[T], output: T | None, error: BaseException | None) -> None:
        if self._is_ending or not self._claim(errand):
            return
        following = errand.next_call()
        if following is not None:
            self._calls.add(following)  # before the worker can hear of it, and call it off
            self._start_call(following)
        self._back.put((errand, output, error, following is not None))
        if following is None or not self._is_watched:  # seen after the put: see `_look`
            self._back.wake()  # not in the next turn of this loop: users' code may block it before


class _HandlerTask(asyncio.Task[None]):
    """Users' code may cancel all there is on its loop. Nothing runs of what has not taken its first step by then.

    A callback for each task would cost more than to make one.
    """

    __slots__ = ("cancelled_early",)

    cancelled_early: Callable[[asyncio.Task[None]], None]

    def cancel(self, msg: str | None = None) -> bool:
        self.add_done_callback(self.cancelled_early)  # else it has said itself how it ended
        return super().cancel(msg)


_End = tuple[LoopCall[T], T | None, BaseException | None, bool]


class _LoopSide:
    """A loop, and the context of all that is called on it from elsewhere: none of a handler's, which would pass it on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.context = copy_context()

    def call(self, call: Callable[[], object]) -> None:
        """From any thread; not where the loop has been closed: then nobody waits there any more."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, context=self.context)


class _CrossLoopQueue(Generic[Item]):
    """Carries items to another loop, in their order; those that are there when it looks are taken together."""

    def __init__(self, there: _LoopSide, take: Callable[[Item], object]) -> None:
        self._there = there
        self._take = take
        self._items: deque[Item] = deque()
        self._is_waking = False

    def put(self, item: Item) -> None:
        self._items.append(item)

    def wake(self) -> None:
        if not self._is_waking:
            self._is_waking = True
            self._there.call(self.take_all)

    def take_all(self) -> None:
        self._is_waking = False  # before the look: what comes after it wakes again
        try:
            for _ in range(len(self._items)):
                self._take(self._items.popleft())
        except BaseException:
            self.wake()  # for those after it
            raise
