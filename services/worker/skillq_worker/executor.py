"""Does the work of attempts. Users' code runs on a loop and on threads of its own, never on the worker's.

Whatever it does to them, the worker's heartbeats go on.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from pydantic import JsonValue

from skillq.messages import TaskAssignment
from skillq_worker.handlers import Handler, Handlers
from skillq_worker.loops import UsersLoop
from skillq_worker.outputs import as_output
from skillq_worker.processes import Processes
from skillq_worker.threads import on_thread

Done = Callable[[JsonValue, BaseException | None], object]
Cancel = Callable[[], object]


class NoHandler(Exception):
    """Raised for a task of a type that nothing here takes."""


class Executor(Protocol):
    """Does the work of an attempt. `types` is None where it takes any."""

    @property
    def types(self) -> tuple[str, ...] | None: ...

    def begin(self, task: TaskAssignment, done: Done) -> Cancel:
        """Begin the work, and return what calls it off.

        `done` hears once how it ended, on this loop, and not before this returns: the output, or an error.
        That is TaskFailed where the work said no, NoHandler where nobody could begin it, CancelledError
        where it was called off, and else whatever the work raised.
        """
        ...


def in_task(work: Coroutine[Any, Any, JsonValue], done: Done) -> Cancel:
    """Do work that is a coroutine of ours, on this loop; for `Executor.begin`."""

    def over(task: asyncio.Task[JsonValue]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        done(None if error else task.result(), error)

    task = asyncio.create_task(work, name="attempt")
    task.add_done_callback(over)
    return task.cancel


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

    def begin(self, task: TaskAssignment, done: Done) -> Cancel:
        handler = self._handlers.get(task.task_type)
        if handler is None:
            return in_task(_refuse(task), done)
        if handler.is_async:
            return self._loop.begin(partial(_work, handler, task), done)
        make = self._in_process if handler.process else self._on_thread
        return in_task(make(handler, task), done)

    async def _in_process(self, handler: Handler, task: TaskAssignment) -> JsonValue:
        arguments = await on_thread(partial(handler.arguments, task))
        return await self._processes.call(handler.function, arguments)

    async def _on_thread(self, handler: Handler, task: TaskAssignment) -> JsonValue:
        cancelled = threading.Event()
        arguments = partial(handler.arguments, task, cancelled)
        try:
            return await on_thread(lambda: as_output(handler.function(**arguments())))
        finally:
            cancelled.set()  # whoever still runs is not waited for


async def _refuse(task: TaskAssignment) -> JsonValue:
    raise NoHandler(f"no handler for the type {task.task_type!r}")


async def _work(handler: Handler, task: TaskAssignment) -> JsonValue:
    """Validating arguments and writing the output run users' code, too: their models, their generators."""
    return as_output(await handler.function(**handler.arguments(task)))
