"""Users' coroutines on one loop in a thread of its own, and what passes between that loop and the worker's."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
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
Item = TypeVar("Item")
Done = Callable[[T | None, BaseException | None], object]

log = structlog.get_logger()


class UsersLoop(Generic[T]):
    """Runs coroutines of type T for the loop on which it is entered."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: code that blocks it must not keep the process from leaving.
        self._thread = threading.Thread(target=self._run_loop, name="handlers", daemon=True)
        self._errands: set[_Errand[T]] = set()  # of whose end nobody has heard
        self._is_leaving = self._is_ending = self._has_ended = False

    def __enter__(self) -> Self:
        self._home, self._abroad = _Side(asyncio.get_running_loop()), _Side(self._loop)
        self._there = _Line(self._home, self._abroad, self._arrive)
        self._back = _Line(self._abroad, self._home, self._return)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_leaving = True
        self._abroad.call(self._loop.stop)
        self._thread.join(_LEAVE_SECONDS)

    def begin(
        self, work: Callable[[], Coroutine[Any, Any, T]], done: Done[T]
    ) -> Callable[[], None]:
        """Begin work, and return what calls it off. `done` hears once of its end, and not before this returns.

        Who calls it off does not wait until it has ended.
        """
        errand = _Errand(work, done)
        self._errands.add(errand)
        if self._has_ended:
            self._home.loop.call_soon(self._end)
        else:
            self._there.hand(errand)
        return partial(self._call_off, errand)

    def _call_off(self, errand: "_Errand[T]") -> None:
        errand.is_called_off = True
        self._there.hand(errand)
        self._home.loop.call_soon(self._return, (errand, None, asyncio.CancelledError()))

    def _return(self, end: "_End[T]") -> None:
        errand, output, error = end
        if errand in self._errands:  # or it was called off before this came
            self._errands.remove(errand)
            errand.done(output, error)

    def _end(self) -> None:
        """Users' code has ended the loop: nothing that was handed over will be heard of."""
        self._has_ended = True
        for errand in list(self._errands):
            self._return((errand, None, RuntimeError("the loop of all handlers has ended")))

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
                self._home.call(self._end)  # at once: to close it may take for ever

    def _arrive(self, errand: "_Errand[T]") -> None:
        """It comes once to begin, and once more when it is called off, maybe on its way."""
        if errand.task is not None:
            errand.task.cancel()
        elif not errand.is_called_off and not self._is_ending:
            errand.task = self._loop.create_task(self._run(errand))

    async def _run(self, errand: "_Errand[T]") -> None:
        try:
            output = await errand.work()
        except asyncio.CancelledError as error:
            self._back.hand((errand, None, error))
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop of all handlers
            self._back.hand((errand, None, ordinary(error)))
        else:
            self._back.hand((errand, output, None))


@dataclass(slots=True, eq=False)
class _Errand(Generic[T]):
    work: Callable[[], Coroutine[Any, Any, T]]
    done: Done[T]
    is_called_off: bool = False
    task: asyncio.Task[None] | None = None  # the other loop's, from its begin on


_End = tuple[_Errand[T], T | None, BaseException | None]


class _Side:
    """A loop, and the context of all that is called on it from elsewhere: none of a handler's, which would pass it on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.context = copy_context()

    def call(self, call: Callable[[], object]) -> None:
        """From any thread; not where the loop has been closed: then nobody waits there any more."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, context=self.context)


class _Line(Generic[Item]):
    """Hands items from one loop to another, in their order.

    Those of one turn of the loop go together: to wake another thread takes longer than all the rest.
    """

    def __init__(self, here: _Side, there: _Side, take: Callable[[Item], object]) -> None:
        self._here = here
        self._there = there
        self._take = take
        self._items: deque[Item] = deque()
        self._is_waking = False

    def hand(self, item: Item) -> None:
        self._items.append(item)
        if not self._is_waking:
            self._is_waking = True
            with suppress(RuntimeError):  # it is closed, and so nobody waits there
                self._here.loop.call_soon(self._there.call, self._take_all)

    def _take_all(self) -> None:
        self._is_waking = False  # before the last look: what comes after it wakes again
        while self._items:
            self._take(self._items.popleft())
