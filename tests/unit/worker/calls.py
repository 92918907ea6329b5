"""One attempt with a handler, as a worker makes it."""

from collections.abc import Callable
from typing import Any

from pydantic import JsonValue

from skillq.clock import Clock, steady_clock
from skillq.messages import (
    Outcome,
    TaskAssignment,
    TaskResult,
    TaskResults,
    decode,
)
from skillq_worker import Handlers, executor
from skillq_worker.executor import Executor, HandlerExecutor
from skillq_worker.results import report
from tests.unit.worker.boss import order, who

clock = steady_clock()


async def attempt(way: Executor, task: TaskAssignment, clock: Clock) -> TaskResult:
    """The result of an attempt, as the manager reads it."""
    ended = await executor.attempt(way, task, clock)
    read = decode(report(who(), "store", [ended]).body)
    assert isinstance(read, TaskResults)
    return read.results[0]


async def made(handlers: Handlers, task: TaskAssignment) -> TaskResult:
    with HandlerExecutor(handlers) as executor:
        return await attempt(executor, task, clock)


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
