"""Run users' async handlers on one event loop in a thread of its own, the handler loop.

A message to the other loop and back takes longer than a short task. So calls that start in one
iteration of the worker's loop cross in one message. When a call has ended, the next attempt that waits
for the slot starts on the handler loop at once; the worker's loop receives the result a little later.
See docs/adr/0019-run-the-next-attempt-on-the-handler-thread.md.
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
from skillq_worker.execution.threads import to_plain_exception

_STOPPED_REASON = (
    "users' code has stopped the loop of all async handlers: none of them can run any more; "
    "mend it, and start this worker anew"
)

T = TypeVar("T")
Item = TypeVar("Item")

log = structlog.get_logger()


class LoopCall(Protocol[T]):
    """One call of an async handler."""

    # The task on the handler loop; None before the call has started.
    task: asyncio.Task[None] | None

    async def work(self) -> T:
        """Call the handler and return its output."""
        ...

    def on_done(self, output: T | None, error: BaseException | None) -> None:
        """Take the output or the error, once, on the loop that started the call."""
        ...

    def next_call(self) -> "LoopCall[T] | None":
        """Return the call that starts in the slot of this ended one, or None; on the handler loop."""
        ...


class HandlerLoop(Generic[T]):
    """The handler loop and its thread. The worker enters this object on its own loop.

    Calls start and end on the handler loop; `on_done` of a call runs on the worker's loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon thread: a handler that blocks it must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run_loop, name="handlers", daemon=True)
        self._calls: set[LoopCall[T]] = set()  # calls that have not ended
        self._is_exiting = self._is_stopping = self._has_stopped = False
        self._is_wake_scheduled = False
        self._is_polling = False  # a timer of the worker's loop collects ended calls

    def __enter__(self) -> Self:
        self._worker_side, self._handler_side = (
            _LoopSide(asyncio.get_running_loop()),
            _LoopSide(self._loop),
        )
        self._to_handlers = _CrossLoopQueue(self._handler_side, self._on_call_received)
        self._to_worker = _CrossLoopQueue(self._worker_side, self._on_call_returned)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_exiting = True
        self._handler_side.call(self._loop.stop)
        self._thread.join(timings.HANDLER_LOOP_END_SECONDS)

    def start(self, call: LoopCall[T]) -> Callable[[], bool]:
        """Start a call; return a function that cancels the call, see `cancel_call`."""
        self._calls.add(call)
        if self._has_stopped:
            self._worker_side.loop.call_soon(self._on_loop_stopped)
        else:
            self._send_call(call)
        return partial(self.cancel_call, call)

    def cancel_call(self, call: LoopCall[T]) -> bool:
        """Cancel a call, and do not wait for its end. Return whether the call had not ended."""
        if not self._claim_call(call):
            return False
        self._send_call(call)
        self._worker_side.loop.call_soon(call.on_done, None, asyncio.CancelledError())
        return True

    def _send_call(self, call: LoopCall[T]) -> None:
        """Send a call to the handler loop, together with all others of this iteration of the loop."""
        self._to_handlers.put(call)
        if not self._is_wake_scheduled:
            self._is_wake_scheduled = True
            self._worker_side.loop.call_soon(self._wake_handlers)

    def _wake_handlers(self) -> None:
        self._is_wake_scheduled = False
        self._to_handlers.wake()

    def _on_call_returned(self, ended_call: "_EndedCall[T]") -> None:
        call, output, error, has_next_call = ended_call
        if has_next_call and not self._is_polling:
            self._is_polling = True
            self._worker_side.loop.call_later(
                timings.HANDLER_LOOP_POLL_SECONDS, self._poll_ended_calls
            )
        call.on_done(output, error)

    def _poll_ended_calls(self) -> None:
        self._is_polling = False  # before `receive_all`: a later `put` then wakes this loop
        self._to_worker.receive_all()

    def _on_loop_stopped(self) -> None:
        """End all calls with an error: users' code has stopped the handler loop."""
        self._has_stopped = True
        self._to_worker.receive_all()
        for call in list(self._calls):
            if self._claim_call(call):
                call.on_done(None, RuntimeError("the loop of all handlers has ended"))

    # --- on both threads

    def _claim_call(self, call: LoopCall[T]) -> bool:
        """Return whether the caller is the first to end this call; a cancellation may race."""
        try:
            self._calls.remove(call)
        except KeyError:
            return False
        return True

    # --- on the handler loop's thread

    def _run_loop(self) -> None:
        # Users' code may also stop the loop while the runner closes it.
        with suppress(RuntimeError), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.get_loop().run_forever()
            finally:
                self._is_stopping = True  # the runner runs the loop once more, to cancel its tasks
                if not self._is_exiting:
                    log.warning(Log.HANDLER_LOOP_STOPPED, reason=_STOPPED_REASON)
                # Before the runner closes the loop: that may take for ever.
                self._worker_side.call(self._on_loop_stopped)

    def _on_call_received(self, call: LoopCall[T]) -> None:
        """Start a call, or cancel it.

        A call arrives once to start, and again if it is cancelled: maybe before it has started.
        """
        if call.task is not None:
            call.task.cancel()
        elif call in self._calls and not self._is_stopping:
            self._start_call(call)

    def _start_call(self, call: LoopCall[T]) -> None:
        # Not by the loop's task factory: an eager factory would run the call within the last step of another.
        context = self._handler_side.context.copy()
        call.task = task = _HandlerTask(self._run_call(call), loop=self._loop, context=context)
        task.on_cancelled_early = self._on_cancelled_early

    def _on_cancelled_early(self, task: asyncio.Task[None]) -> None:
        for call in list(self._calls):
            if call.task is task:
                self._on_call_ended(call, None, asyncio.CancelledError())

    async def _run_call(self, call: LoopCall[T]) -> None:
        try:
            output = await call.work()
        except asyncio.CancelledError as error:
            self._on_call_ended(call, None, error)
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop of all handlers
            self._on_call_ended(call, None, to_plain_exception(error))
        else:
            self._on_call_ended(call, output, None)

    def _on_call_ended(
        self, call: LoopCall[T], output: T | None, error: BaseException | None
    ) -> None:
        if self._is_stopping or not self._claim_call(call):
            return
        next_call = call.next_call()
        if next_call is not None:
            self._calls.add(next_call)  # before the worker can receive it, and cancel it
            self._start_call(next_call)
        self._to_worker.put((call, output, error, next_call is not None))
        if next_call is None or not self._is_polling:  # read after the put: see `_poll_ended_calls`
            self._to_worker.wake()  # at once: a handler may block the next iteration of this loop


class _HandlerTask(asyncio.Task[None]):
    """The task of one call. It reports a cancellation even if its coroutine has not started.

    Users' code may cancel all tasks of the loop. A task that is cancelled before its first step runs no
    code of its coroutine, so only a callback can report its end. The callback is added in `cancel`:
    a callback for each task would cost more than to make the task.
    """

    __slots__ = ("on_cancelled_early",)

    on_cancelled_early: Callable[[asyncio.Task[None]], None]

    def cancel(self, msg: str | None = None) -> bool:
        """Cancel the task. Overrides `asyncio.Task.cancel`."""
        # The callback does nothing for a call whose coroutine has reported its end itself.
        self.add_done_callback(self.on_cancelled_early)
        return super().cancel(msg)


_EndedCall = tuple[LoopCall[T], T | None, BaseException | None, bool]


class _LoopSide:
    """One of the two event loops, with a context for functions that the other loop calls.

    Without a context of its own, a function would run in the context of a handler and pass it on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.context = copy_context()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on this loop, from any thread; do nothing if the loop is closed."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, context=self.context)


class _CrossLoopQueue(Generic[Item]):
    """Carries items to another loop, in order; one wake-up may deliver several items."""

    def __init__(self, target: _LoopSide, receive: Callable[[Item], object]) -> None:
        self._target = target
        self._receive = receive
        self._items: deque[Item] = deque()
        self._is_waking = False

    def put(self, item: Item) -> None:
        """Add an item, without waking the other loop."""
        self._items.append(item)

    def wake(self) -> None:
        """Let the other loop call `receive_all`."""
        if not self._is_waking:
            self._is_waking = True
            self._target.call(self.receive_all)

    def receive_all(self) -> None:
        """Pass the queued items to `receive`, on the target loop."""
        self._is_waking = (
            False  # before the items are read: a later `put` then wakes the loop again
        )
        try:
            for _ in range(len(self._items)):
                self._receive(self._items.popleft())
        except BaseException:
            self.wake()  # for the remaining items
            raise
