"""Users' coroutines on one loop in a thread of its own, and what passes between that loop and the worker's."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Self, TypeVar

import structlog

from skillq.logs import Log
from skillq_worker.threads import ordinary

_ENDED = (
    "users' code has stopped the loop of all async handlers: none of them can run any more; "
    "mend it, and start this worker anew"
)
_LEAVE_SECONDS = 0.5  # for users' coroutines to end when the worker leaves

T = TypeVar("T")

log = structlog.get_logger()


class UsersLoop(Generic[T]):
    """Runs coroutines of type T for the loop on which it is entered."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: code that blocks it must not keep the process from leaving.
        self._thread = threading.Thread(target=self._run_loop, name="handlers", daemon=True)
        self._waiting: set[asyncio.Future[T]] = set()
        self._is_leaving = self._is_ending = self._has_ended = False

    def __enter__(self) -> Self:
        self._home = asyncio.get_running_loop()
        self._there = _Line(self._home, self._loop)
        self._back = _Line(self._loop, self._home)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_leaving = True
        _call(self._loop, self._loop.stop)
        self._thread.join(_LEAVE_SECONDS)

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine returns. Who is cancelled meanwhile does not wait until it has ended."""
        if self._has_ended:
            raise RuntimeError("the loop of all handlers has ended")
        future: asyncio.Future[T] = self._home.create_future()
        errand = _Errand(work, future)
        self._waiting.add(future)
        self._there.hand(partial(self._begin, errand))
        try:
            return await future
        except asyncio.CancelledError:
            self._there.hand(errand.cancel)
            raise
        finally:
            self._waiting.discard(future)

    def _end(self) -> None:
        """Users' code has ended the loop: nothing that was handed over will be heard of."""
        self._has_ended = True
        for future in self._waiting:
            if not future.done():
                future.set_exception(RuntimeError("the loop of all handlers has ended"))

    # --- on the other thread

    def _run_loop(self) -> None:
        # Users' code may stop it while it is closed, too.
        with suppress(RuntimeError), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.get_loop().run_forever()
            finally:
                self._is_ending = True  # it runs once more, to cancel what is left on it
                if not self._is_leaving:
                    log.warning(Log.HANDLERS_ENDED, reason=_ENDED)
                _call(self._home, self._end)  # at once: to close it may take for ever

    def _begin(self, errand: "_Errand[T]") -> None:
        # It may have been called off on the way.
        if not errand.future.done() and not self._is_ending:
            errand.task = self._loop.create_task(self._run(errand))

    async def _run(self, errand: "_Errand[T]") -> None:
        tell: Callable[[], object]
        try:
            output = await errand.work()
        except asyncio.CancelledError:
            tell = errand.future.cancel
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop of all handlers
            tell = partial(errand.future.set_exception, ordinary(error))
        else:
            tell = partial(errand.future.set_result, output)
        self._back.hand(partial(errand.tell, tell))


class _Errand(Generic[T]):
    __slots__ = ("future", "task", "work")

    def __init__(
        self, work: Callable[[], Coroutine[Any, Any, T]], future: asyncio.Future[T]
    ) -> None:
        self.work = work
        self.future = future  # the worker's
        self.task: asyncio.Task[None] | None = None  # the other loop's, from its begin on

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def tell(self, tell: Callable[[], object]) -> None:
        if not self.future.done():  # or nobody waits for it any more
            tell()


class _Line:
    """Hands calls from one loop to another, in their order.

    Those of one turn of the loop go together: to wake another thread takes longer than all the rest.
    """

    def __init__(self, here: asyncio.AbstractEventLoop, there: asyncio.AbstractEventLoop) -> None:
        self._here = here
        self._there = there
        self._calls: deque[Callable[[], object]] = deque()
        self._is_waking = False

    def hand(self, call: Callable[[], object]) -> None:
        self._calls.append(call)
        if not self._is_waking:
            self._is_waking = True
            with suppress(RuntimeError):  # it is closed, and so nobody waits there
                self._here.call_soon(_call, self._there, self._take)

    def _take(self) -> None:
        self._is_waking = False  # before the last look: what comes after it wakes again
        while self._calls:
            self._calls.popleft()()


def _call(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """On that loop, if it has not been closed: then nobody waits there any more."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
