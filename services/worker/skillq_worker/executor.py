"""Runs one attempt. Users' code runs on a loop and on threads of its own, never on the worker's.

Whatever it does to them, the worker's heartbeats go on.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Protocol

from pydantic import JsonValue, TypeAdapter, ValidationError

from skillq.clock import Clock
from skillq.messages import Outcome, Output, TaskAssignment, TaskResult, explain
from skillq_worker.handlers import Handlers, PayloadError, as_output


class TaskFailed(Exception):
    """Raised by work that says no; the message is all there is to say."""


_OUTPUT: TypeAdapter[JsonValue] = TypeAdapter(Output)


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
    """Runs users' handlers: async ones on one loop in a thread of its own, sync ones each on a thread."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="handlers", daemon=True)

    def __enter__(self) -> "HandlerExecutor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The thread is a daemon: code that blocks it must not keep the process from leaving.
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def types(self) -> tuple[str, ...]:
        return self._handlers.types

    async def execute(self, task: TaskAssignment) -> JsonValue:
        handler = self._handlers[task.task_type]
        arguments = handler.arguments(task)
        if handler.is_async:
            value = await self._on_loop(handler.function(**arguments))
        else:
            value = await _on_thread(lambda: handler.function(**arguments))
        return as_output(value)

    async def _on_loop(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            try:
                return await work
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # SystemExit would end the loop of all handlers
                raise _ordinary(error) from error

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))


async def _on_thread(work: Callable[[], Any]) -> Any:
    """Run on a daemon thread: an executor's threads would keep a process that wants to leave."""
    future: Future[Any] = Future()

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
    outcome, output, error = await _outcome(executor, task)
    result = TaskResult(
        run=task.run,
        id=task.id,
        attempt=task.attempt,
        outcome=outcome,
        error=error,
        started_at=started_at,
        finished_at=clock(),
    )
    return result.model_copy(update={"output": output})


async def _outcome(
    executor: Executor, task: TaskAssignment
) -> tuple[Outcome, JsonValue, str | None]:
    if executor.types is not None and task.task_type not in executor.types:
        return Outcome.REFUSED, None, f"no handler for the type {task.task_type!r}"
    limit = asyncio.timeout(task.timeout)
    try:
        async with limit:
            output = await executor.execute(task)
    except (TaskFailed, PayloadError) as error:
        return Outcome.FAILED, None, str(error)
    except Exception as error:  # noqa: BLE001 - users' code may raise anything; it fails the attempt
        if limit.expired():
            return Outcome.TIMED_OUT, None, f"took longer than {task.timeout:g} s"
        return Outcome.FAILED, None, f"{type(error).__name__}: {error}"[:2000]
    try:
        return Outcome.SUCCEEDED, _OUTPUT.validate_python(output), None
    except ValidationError as error:
        return Outcome.FAILED, None, f"the output {explain(error)}"


def _ordinary(error: BaseException) -> Exception:
    """An error that can cross to another thread's loop without ending it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
