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
from skillq_worker.execution.failures import HandlerFailed, failure, run_user_code
from skillq_worker.execution.handler_loop import HandlerLoop
from skillq_worker.execution.handlers import Handler, Handlers
from skillq_worker.execution.outputs import as_output
from skillq_worker.execution.processes import Processes
from skillq_worker.execution.threads import on_thread

Cancel = Callable[[], bool]


class NoHandler(Exception):
    """Raised for a task of a type that nothing here takes."""


class Job(Protocol):
    """A task to be done, and who hears of it."""

    @property
    def task(self) -> TaskAssignment: ...

    def on_done(self, output: JsonValue, error: BaseException | None) -> None:
        """Hear how it ended: on the worker's loop, once, and not before `begin` has returned.

        The error is TaskFailed where the work said no, NoHandler where nobody could begin it, CancelledError
        where it was called off, HandlerFailed or else whatever the work raised.
        """
        ...

    def take_next(self) -> "Job | None":
        """It has ended, and this one has its slot now: for executors that do not wait until the worker has heard.

        On any thread, at most once, and never of a job that was called off. What cannot begin there is left alone:
        the worker begins it when it is `done` with this one.
        """
        ...

    def on_started(self, cancel: Cancel) -> None:
        """It was the next one, and has begun there."""
        ...


class Executor(Protocol):
    """Does the work of an attempt. `types` is None where it takes any."""

    @property
    def types(self) -> tuple[str, ...] | None: ...

    def start(self, job: Job) -> Cancel:
        """Begin it, and return what calls it off, and says whether it had not ended."""
        ...


def in_task(work: Coroutine[Any, Any, JsonValue], job: Job) -> Cancel:
    """Do a job that is a coroutine of ours, on this loop."""

    def over(task: asyncio.Task[JsonValue]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        job.on_done(task.result() if error is None else None, error)

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
        self._loop: HandlerLoop[JsonValue] = HandlerLoop()

    def __enter__(self) -> "HandlerExecutor":
        self._loop.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.stop()
        self._loop.__exit__()

    @property
    def types(self) -> tuple[str, ...]:
        return self._handlers.types

    def start(self, job: Job) -> Cancel:
        handler = self._handlers.get(job.task.task_type)
        if handler is None:
            return in_task(_refuse(job.task), job)
        if handler.is_async:
            return self._loop.start(_HandlerCall(self, handler, job))
        make = self._in_process if handler.process else self._on_thread
        return in_task(make(handler, job.task), job)

    def follow(self, job: Job) -> "_HandlerCall | None":
        """On the users' loop: what begins there in the place of a job that has ended."""
        following = job.take_next()
        if following is None:
            return None
        handler = self._handlers.get(following.task.task_type)
        if handler is None or not handler.is_async:
            return None
        errand = _HandlerCall(self, handler, following)
        following.on_started(partial(self._loop.cancel_call, errand))
        return errand

    async def _in_process(self, handler: Handler, task: TaskAssignment) -> JsonValue:
        arguments = await on_thread(lambda: run_user_code(partial(handler.arguments, task)))
        return await self._processes.call(handler.function, arguments)

    async def _on_thread(self, handler: Handler, task: TaskAssignment) -> JsonValue:
        cancelled = threading.Event()
        arguments = partial(handler.arguments, task, cancelled)
        try:
            return await on_thread(
                lambda: run_user_code(lambda: as_output(handler.function(**arguments())))
            )
        finally:
            cancelled.set()  # whoever still runs is not waited for


async def _refuse(task: TaskAssignment) -> JsonValue:
    raise NoHandler(f"no handler for the type {task.task_type!r}")


class _HandlerCall:
    """See `skillq_worker.execution.handler_loop.Errand`."""

    __slots__ = ("_executor", "_handler", "_job", "task")

    def __init__(self, executor: HandlerExecutor, handler: Handler, job: Job) -> None:
        self._executor = executor
        self._handler = handler
        self._job = job
        self.task: asyncio.Task[None] | None = None

    async def work(self) -> JsonValue:
        """Validating arguments and writing the output run users' code, too: their models, their generators."""
        handler = self._handler
        try:
            return as_output(await handler.function(**handler.arguments(self._job.task)))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - as in `told`
            failed = failure(error)
        raise HandlerFailed(failed)

    def on_done(self, output: JsonValue, error: BaseException | None) -> None:
        self._job.on_done(output, error)

    def next_call(self) -> "_HandlerCall | None":
        return self._executor.follow(self._job)
