"""Run one attempt with an executor, without a worker."""

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic import JsonValue

from skillq.messages import Outcome, TaskAssignment, TaskResult, TaskResults, decode
from skillq_worker import Handlers
from skillq_worker.execution.attempt import AttemptContext, AttemptRun
from skillq_worker.execution.executor import Executor, HandlerExecutor
from skillq_worker.results import Result, results_message
from tests.support.fake_manager import assignment, worker_profile
from tests.support.virtual_time import loop_clock


def start_attempt(
    executor: Executor, task: TaskAssignment
) -> tuple[AttemptRun, asyncio.Future[Result | None]]:
    """Start an attempt that no other attempt follows; return it and the future of its result."""
    ended: asyncio.Future[Result | None] = asyncio.get_running_loop().create_future()

    def on_ended(_: AttemptRun, result: Result | None) -> None:
        ended.set_result(result)

    context = AttemptContext(
        executor, loop_clock(), take_next=lambda: None, on_started=lambda _: None, on_ended=on_ended
    )
    attempt_run = AttemptRun(context, (task.run, task.id, task.attempt), task)
    attempt_run.start()
    return attempt_run, ended


async def run_attempt(executor: Executor, task: TaskAssignment) -> TaskResult:
    """Run an attempt; return its result as the manager decodes it.

    Cancelling this coroutine cancels the attempt.
    """
    attempt_run, ended = start_attempt(executor, task)
    try:
        result = await asyncio.shield(ended)
    except asyncio.CancelledError:
        attempt_run.cancel()
        assert await ended is None, "a cancelled attempt has no result"
        raise
    assert result is not None, "the attempt was not cancelled"
    message = decode(results_message(worker_profile(), "store", [result]).body)
    assert isinstance(message, TaskResults)
    return message.results[0]


async def run_handlers(handlers: Handlers, task: TaskAssignment) -> TaskResult:
    with HandlerExecutor(handlers) as executor:
        return await run_attempt(executor, task)


async def run_handler(
    function: Callable[..., Any], timeout: float | None = None, **payload: Any
) -> TaskResult:
    handlers = Handlers()
    handlers.task("work")(function)
    task = assignment(task_type="work", payload=payload, timeout=timeout)
    return await run_handlers(handlers, task)


async def handler_output(function: Callable[..., Any], **payload: Any) -> JsonValue:
    """Run a handler that succeeds; return its output."""
    result = await run_handler(function, **payload)
    assert result.outcome is Outcome.SUCCEEDED, result.error
    return result.output


async def handler_error(function: Callable[..., Any], **payload: Any) -> str:
    """Run a handler that fails; return the error, which has one line."""
    result = await run_handler(function, **payload)
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.isprintable(), "one line"
    return result.error
