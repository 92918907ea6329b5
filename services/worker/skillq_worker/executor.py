"""Runs one attempt. Users' code runs on a loop and on threads of its own, never on the worker's.

Whatever it does to them, the worker's heartbeats go on.
"""

import asyncio
import threading
from contextlib import nullcontext
from functools import partial
from typing import Protocol

import structlog
from pydantic import JsonValue

from skillq.clock import Clock
from skillq.logs import Log
from skillq.messages import Outcome, TaskAssignment
from skillq_worker.failing import Failure, failure, types_of
from skillq_worker.handlers import Handler, Handlers
from skillq_worker.loops import UsersLoop
from skillq_worker.outputs import as_output
from skillq_worker.processes import FailedElsewhere, Processes
from skillq_worker.results import Result, result
from skillq_worker.threads import on_thread

log = structlog.get_logger()


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

    Those that ask for it run in processes.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._processes = Processes()
        self._loop: UsersLoop[JsonValue] = UsersLoop()

    def __enter__(self) -> "HandlerExecutor":
        self._loop.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()
        self._loop.__exit__()

    @property
    def types(self) -> tuple[str, ...]:
        return self._handlers.types

    async def execute(self, task: TaskAssignment) -> JsonValue:
        handler = self._handlers[task.task_type]

        # Validating arguments and writing the output run users' code, too: their models, their generators.
        async def work() -> JsonValue:
            return as_output(await handler.function(**handler.arguments(task)))

        if handler.is_async:
            return await self._loop.run(work)
        if handler.process:
            return await self._in_process(handler, task)
        cancelled = threading.Event()
        arguments = partial(handler.arguments, task, cancelled)
        try:
            return await on_thread(lambda: as_output(handler.function(**arguments())))
        finally:
            cancelled.set()  # whoever still runs is not waited for

    async def _in_process(self, handler: Handler, task: TaskAssignment) -> JsonValue:
        arguments = await on_thread(partial(handler.arguments, task))
        return await self._processes.call(handler.function, arguments)


async def attempt(executor: Executor, task: TaskAssignment, clock: Clock) -> Result:
    """Make one attempt; whatever happens becomes a result."""
    started_at = clock()
    outcome, output, error, error_types = await _outcome(executor, task)
    return result(
        (task.run, task.id, task.attempt),
        outcome,
        output=output,
        error=error,
        error_types=error_types,
        started_at=started_at,
        finished_at=clock(),
    )


async def _outcome(
    executor: Executor, task: TaskAssignment
) -> tuple[Outcome, JsonValue, str | None, tuple[str, ...]]:
    if (types := executor.types) is not None and task.task_type not in types:
        return Outcome.REFUSED, None, f"no handler for the type {task.task_type!r}", ()
    limit = None if task.timeout is None else asyncio.timeout(task.timeout)
    try:
        async with limit or nullcontext():
            return Outcome.SUCCEEDED, await executor.execute(task), None, ()
    except FailedElsewhere as error:
        return _failed(task, error.failure)
    except asyncio.CancelledError as error:
        if (current := asyncio.current_task()) is None or current.cancelling():
            raise  # it is we who are told to give it up
        return Outcome.FAILED, None, "the handler cancelled itself", types_of(error)
    except Exception as error:  # noqa: BLE001 - users' code may raise anything; it fails the attempt
        if limit is not None and limit.expired():
            return Outcome.TIMED_OUT, None, f"took longer than {task.timeout:g} s", types_of(error)
        return _failed(task, failure(error))


def _failed(
    task: TaskAssignment, failure: Failure
) -> tuple[Outcome, JsonValue, str, tuple[str, ...]]:
    if failure.trace is not None:
        log.warning(
            Log.HANDLER_RAISED,
            task=(task.run, task.id),
            attempt=task.attempt,
            exception=failure.trace,
        )
    return Outcome.FAILED, None, failure.text, failure.types
