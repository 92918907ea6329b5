"""Runs one attempt. Users' code runs on a loop and on threads of its own, never on the worker's.

Whatever it does to them, the worker's heartbeats go on.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool
from pydantic import JsonValue

from skillq.clock import Clock
from skillq.messages import Outcome, TaskAssignment, TaskResult, shorten
from skillq_worker.handlers import Handler, Handlers, OutputError, PayloadError, as_output

T = TypeVar("T")


class TaskFailed(Exception):
    """Raised by work that says no; the message is all there is to say."""


_LEAVE_SECONDS = 0.5  # for users' coroutines to end when the worker leaves
_MAX_ERROR = 2000


class Executor(Protocol):
    """Does the work of an attempt. `types` is None where it takes any."""

    @property
    def types(self) -> tuple[str, ...] | None: ...

    async def execute(self, task: TaskAssignment) -> JsonValue:
        """Return the task's output.

        Raises:
            TaskFailed: the work said no.
            Exception: whatever the work raised; the attempt has failed.
        """
        ...


class HandlerExecutor:
    """Runs users' handlers: async ones on one loop in a thread of its own, sync ones each on a thread.

    Those that ask for it run in processes, at most `slots` at a time.
    """

    def __init__(self, handlers: Handlers, slots: int = 1) -> None:
        self._handlers = handlers
        # Spawned: a fork would copy the threads' locks, but not the threads.
        self._processes = ProcessPool(max_workers=slots, context=get_context("spawn"))
        self._loop = asyncio.new_event_loop()
        # A daemon: code that blocks it must not keep the process from leaving.
        self._thread = threading.Thread(target=self._run_loop, name="handlers", daemon=True)

    def __enter__(self) -> "HandlerExecutor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()  # type: ignore[no-untyped-call]
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LEAVE_SECONDS)

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    @property
    def types(self) -> tuple[str, ...]:
        return self._handlers.types

    async def execute(self, task: TaskAssignment) -> JsonValue:
        handler = self._handlers[task.task_type]

        # Validating arguments and writing the output run users' code, too: their models, their generators.
        async def work() -> JsonValue:
            return as_output(await handler.function(**handler.arguments(task)))

        if handler.is_async:
            return await self._on_loop(work)
        if handler.process:
            return await self._in_process(handler, task)
        cancelled = threading.Event()
        arguments = partial(handler.arguments, task, cancelled)
        try:
            return await _on_thread(lambda: as_output(handler.function(**arguments())))
        finally:
            cancelled.set()  # whoever still runs is not waited for

    async def _in_process(self, handler: Handler, task: TaskAssignment) -> JsonValue:
        """A process whose future is cancelled is ended."""
        arguments = await _on_thread(partial(handler.arguments, task))
        try:
            return await asyncio.wrap_future(
                self._processes.schedule(_call, args=(handler.function, arguments))
            )
        except ProcessExpired as error:
            raise TaskFailed(f"its process ended with exit code {error.exitcode}") from error

    async def _on_loop(self, work: Callable[[], Awaitable[JsonValue]]) -> JsonValue:
        async def run() -> JsonValue:
            try:
                return await work()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # SystemExit would end the loop of all handlers
                raise _ordinary(error) from error

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> JsonValue:
    """What runs in the process."""
    return as_output(function(**arguments))


async def _on_thread(work: Callable[[], T]) -> T:
    """Run on a daemon thread: an executor's threads would keep a process that wants to leave."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the awaiting side
            future.set_exception(_ordinary(error))

    threading.Thread(target=run, name="handler", daemon=True).start()
    return await asyncio.wrap_future(future)


async def attempt(executor: Executor, task: TaskAssignment, clock: Clock) -> TaskResult:
    """Make one attempt; whatever happens becomes a result."""
    started_at = clock()
    outcome, output, error, error_types = await _outcome(executor, task)
    result = TaskResult(
        run=task.run,
        id=task.id,
        attempt=task.attempt,
        outcome=outcome,
        error=error,
        error_types=error_types,
        started_at=started_at,
        finished_at=clock(),
    )
    return result.model_copy(update={"output": output})


async def _outcome(
    executor: Executor, task: TaskAssignment
) -> tuple[Outcome, JsonValue, str | None, tuple[str, ...]]:
    if executor.types is not None and task.task_type not in executor.types:
        return Outcome.REFUSED, None, f"no handler for the type {task.task_type!r}", ()
    limit = asyncio.timeout(task.timeout)
    try:
        async with limit:
            return Outcome.SUCCEEDED, await executor.execute(task), None, ()
    except (TaskFailed, PayloadError, OutputError) as error:
        return Outcome.FAILED, None, _text(error), _types(error)
    except asyncio.CancelledError as error:
        if (current := asyncio.current_task()) is None or current.cancelling():
            raise  # it is we who are told to give it up
        return Outcome.FAILED, None, "the handler cancelled itself", _types(error)
    except Exception as error:  # noqa: BLE001 - users' code may raise anything; it fails the attempt
        if limit.expired():
            return Outcome.TIMED_OUT, None, f"took longer than {task.timeout:g} s", _types(error)
        return Outcome.FAILED, None, _text(error, f"{type(error).__name__}: "), _types(error)


def _types(error: BaseException) -> tuple[str, ...]:
    """The class of an error and its bases, by name, for `retry_on` and `no_retry_on`."""
    return tuple(cls.__name__ for cls in type(error).__mro__ if cls is not object)


def _text(error: Exception, prefix: str = "") -> str:
    """What an error says, fit for a message: a result that cannot be sent would never be counted."""
    text = prefix + _said(error)
    return shorten(text.encode(errors="backslashreplace").decode(), _MAX_ERROR)


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - users' errors may fail at that, too, and as they like
        return "what it says cannot be read"


def _ordinary(error: BaseException) -> Exception:
    """An error that can cross to another thread's loop without ending it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {_said(error)}")
