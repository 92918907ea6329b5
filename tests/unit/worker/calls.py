"""One attempt with a handler, as a worker makes it."""

from collections.abc import Callable
from typing import Any

from pydantic import JsonValue

from skillq.clock import steady_clock
from skillq.messages import (
    Outcome,
    TaskAssignment,
    TaskResult,
    TaskResults,
    decode,
    encode,
)
from skillq_worker import Handlers
from skillq_worker.executor import HandlerExecutor, attempt
from tests.unit.worker.boss import order

clock = steady_clock()


async def made(handlers: Handlers, task: TaskAssignment) -> TaskResult:
    """The result of an attempt, as the manager reads it."""
    with HandlerExecutor(handlers) as executor:
        result = await attempt(executor, task, clock)
    sent = encode(TaskResults(worker="ada", incarnation="1", results=(result,)))
    read = decode(sent)
    assert isinstance(read, TaskResults)
    return read.results[0]


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
