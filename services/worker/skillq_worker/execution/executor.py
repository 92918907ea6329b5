"""Execute attempts by users' handlers.

Handlers run on a loop and on threads of their own, or in processes. So the worker's loop sends
heartbeats even while a handler blocks.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from pydantic import JsonValue

from skillq.messages import TaskAssignment
from skillq_worker.execution.failures import HandlerFailed, describe_failure, run_user_code
from skillq_worker.execution.handler_loop import HandlerLoop
from skillq_worker.execution.handlers import Handler, Handlers
from skillq_worker.execution.outputs import to_output
from skillq_worker.execution.processes import Processes
from skillq_worker.execution.threads import run_on_thread

CancelJob = Callable[[], bool]  # cancels a job; returns whether the job had not ended


class NoHandler(Exception):
    """Raised for a task whose type has no handler here."""


class Job(Protocol):
    """One attempt, as an executor sees it: a task, and callbacks for its progress."""

    @property
    def assignment(self) -> TaskAssignment:
        """The task to execute."""
        ...

    def on_done(self, output: JsonValue, error: BaseException | None) -> None:
        """Take the output or the error of the job.

        The executor calls this method once, on the worker's loop, after `Executor.start` has returned.
        The error is TaskFailed if the task failed on purpose, NoHandler if no handler could start it,
        CancelledError if the job was cancelled, HandlerFailed or another exception if its code raised one.
        """
        ...

    def take_next(self) -> "Job | None":
        """Return the next job for the slot of this ended job, or None.

        An executor that starts the next job at once, without a way through the worker's loop, calls
        this method: on any thread, at most once, and never for a cancelled job. If the executor cannot
        start the returned job, it does nothing: the worker starts that job after `on_done` of this one.
        """
        ...

    def on_started(self, cancel: CancelJob) -> None:
        """Note that the executor has started this job itself, after `take_next` of another job."""
        ...


class Executor(Protocol):
    """Executes jobs, each on the task of one attempt."""

    @property
    def types(self) -> tuple[str, ...] | None:
        """The task types that the executor handles, or None for any type."""
        ...

    def start(self, job: Job) -> CancelJob:
        """Start a job; return a function that cancels the job, see `CancelJob`."""
        ...


def run_in_task(work: Coroutine[Any, Any, JsonValue], job: Job) -> CancelJob:
    """Start a job whose work is a coroutine of the worker's own code, on the running loop."""

    def on_task_done(task: asyncio.Task[JsonValue]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        job.on_done(task.result() if error is None else None, error)

    task = asyncio.create_task(work, name="attempt")
    task.add_done_callback(on_task_done)
    return task.cancel


class HandlerExecutor:
    """Executes jobs by users' handlers.

    Async handlers share one loop in a thread of its own; each call of a sync handler has a thread of its
    own. Handlers that are registered with `process=True` run in processes.
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
        """The task types that have a handler."""
        return self._handlers.types

    def start(self, job: Job) -> CancelJob:
        """Implements `Executor.start`."""
        handler = self._handlers.get(job.assignment.task_type)
        if handler is None:
            return run_in_task(_refuse(job.assignment), job)
        if handler.is_async:
            return self._loop.start(_HandlerCall(self, handler, job))
        run_handler = self._run_in_process if handler.process else self._run_on_thread
        return run_in_task(run_handler(handler, job.assignment), job)

    def start_next(self, job: Job) -> "_HandlerCall | None":
        """Return the call that starts on the handler loop in the slot of an ended job, or None."""
        next_job = job.take_next()
        if next_job is None:
            return None
        handler = self._handlers.get(next_job.assignment.task_type)
        if handler is None or not handler.is_async:
            return None
        call = _HandlerCall(self, handler, next_job)
        next_job.on_started(partial(self._loop.cancel_call, call))
        return call

    async def _run_in_process(self, handler: Handler, task: TaskAssignment) -> JsonValue:
        arguments = await run_on_thread(lambda: run_user_code(partial(handler.arguments, task)))
        return await self._processes.call(handler.function, arguments)

    async def _run_on_thread(self, handler: Handler, task: TaskAssignment) -> JsonValue:
        cancelled = threading.Event()
        arguments = partial(handler.arguments, task, cancelled)
        try:
            return await run_on_thread(
                lambda: run_user_code(lambda: to_output(handler.function(**arguments())))
            )
        finally:
            cancelled.set()  # a cancelled handler that still runs sees this, and nobody waits for it


async def _refuse(task: TaskAssignment) -> JsonValue:
    raise NoHandler(f"no handler for the type {task.task_type!r}")


class _HandlerCall:
    """A call of an async handler. Implements `skillq_worker.execution.handler_loop.LoopCall`."""

    __slots__ = ("_executor", "_handler", "_job", "task")

    def __init__(self, executor: HandlerExecutor, handler: Handler, job: Job) -> None:
        self._executor = executor
        self._handler = handler
        self._job = job
        self.task: asyncio.Task[None] | None = None

    async def work(self) -> JsonValue:
        """Call the handler and return its output.

        Validation of the arguments and conversion of the output run users' code, too: their models,
        their generators.

        Raises:
            HandlerFailed: users' code raised an exception.
        """
        handler = self._handler
        try:
            return to_output(await handler.function(**handler.arguments(self._job.assignment)))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - as in `run_user_code`
            failed = describe_failure(error)
        raise HandlerFailed(failed)

    def on_done(self, output: JsonValue, error: BaseException | None) -> None:
        """Implements `LoopCall.on_done`."""
        self._job.on_done(output, error)

    def next_call(self) -> "_HandlerCall | None":
        """Implements `LoopCall.next_call`."""
        return self._executor.start_next(self._job)
