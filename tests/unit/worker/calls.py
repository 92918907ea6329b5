"""One attempt with a handler, as a worker makes it."""

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic import JsonValue

from skillq.messages import (
    Outcome,
    TaskAssignment,
    TaskResult,
    TaskResults,
    decode,
)
from skillq_worker import Handlers
from skillq_worker.execution.attempt import AttemptContext, AttemptRun
from skillq_worker.execution.executor import Executor, HandlerExecutor
from skillq_worker.results import Result, results_message
from tests.support.virtual_time import loop_clock
from tests.unit.worker.boss import order, who


def begin(
    executor: Executor, task: TaskAssignment
) -> tuple[AttemptRun, asyncio.Future[Result | None]]:
    """An attempt that has begun, and is followed by none; and what it will have come to."""
    ended: asyncio.Future[Result | None] = asyncio.get_running_loop().create_future()

    def over(_: AttemptRun, result: Result | None) -> None:
        ended.set_result(result)

    shop = AttemptContext(
        executor, loop_clock(), take_next=lambda: None, on_started=lambda _: None, on_ended=over
    )
    making = AttemptRun(shop, (task.run, task.id, task.attempt), task)
    making.start()
    return making, ended


async def attempt(executor: Executor, task: TaskAssignment) -> TaskResult:
    """The result of an attempt, as the manager reads it; who is cancelled calls it off."""
    making, ended = begin(executor, task)
    try:
        result = await asyncio.shield(ended)
    except asyncio.CancelledError:
        making.cancel()
        assert await ended is None, "no result of what was called off"
        raise
    assert result is not None, "nobody has called it off"
    read = decode(results_message(who(), "store", [result]).body)
    assert isinstance(read, TaskResults)
    return read.results[0]


async def made(handlers: Handlers, task: TaskAssignment) -> TaskResult:
    with HandlerExecutor(handlers) as executor:
        return await attempt(executor, task)


async def call(
    function: Callable[..., Any], timeout: float | None = None, **payload: Any
) -> TaskResult:
    handlers = Handlers()
    handlers.task("work")(function)
    return await made(handlers, order(task_type="work", payload=payload, timeout=timeout))


async def returned(function: Callable[..., Any], **payload: Any) -> JsonValue:
    result = await call(function, **payload)
    assert result.outcome is Outcome.SUCCEEDED, result.error
    return result.output


async def complaint(function: Callable[..., Any], **payload: Any) -> str:
    result = await call(function, **payload)
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.isprintable(), "one line"
    return result.error
