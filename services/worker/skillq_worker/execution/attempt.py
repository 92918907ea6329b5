"""One attempt, from its begin to its end; whatever happens becomes a result."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pydantic import JsonValue

from skillq.messages import Outcome, TaskAssignment
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq_worker.execution.executor import Cancel, Executor, NoHandler
from skillq_worker.execution.failures import Failure, HandlerFailed, failure, safe_str, types_of
from skillq_worker.execution.slots import Attempt
from skillq_worker.results import Result, result

_SUCCEEDED = Outcome.SUCCEEDED  # to look it up for each attempt is slow on Python 3.11

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What an attempt needs of its worker."""

    executor: Executor
    clock: Clock
    next: "Callable[[], AttemptRun | None]"  # for the slot of one that has ended; on any thread
    begun: "Callable[[AttemptRun], object]"
    over: (
        "Callable[[AttemptRun, Result | None], object]"  # without a result where it was called off
    )


class AttemptRun:
    """One attempt. `following` has its slot after it; see `skillq_worker.execution.executor.Job`."""

    __slots__ = (
        "_cancel",
        "_context",
        "_ended_at",
        "_is_cancelled",
        "_is_late",
        "_timer",
        "attempt",
        "following",
        "has_started",
        "started_at",
        "task",
    )

    def __init__(self, shop: AttemptContext, attempt: Attempt, task: TaskAssignment) -> None:
        self.attempt = attempt
        self.task = task
        self.started_at = shop.clock()
        self.following: AttemptRun | None = None
        self.has_started = False
        self._context = shop
        self._ended_at: float | None = None
        self._is_cancelled = self._is_late = False
        self._cancel: Cancel | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin it, or take note that it has begun."""
        if not self.has_started:
            self.started_at = self._context.clock()
            self.on_started(self._context.executor.start(self))
        if self.task.timeout is not None:
            # On this loop, not on the users': they may block theirs.
            left = self.started_at + self.task.timeout - self._context.clock()
            self._timer = asyncio.get_running_loop().call_later(left, self._expire)
        self._context.begun(self)

    def cancel(self) -> None:
        self._is_cancelled = True
        self._cancel_work()

    def _expire(self) -> None:
        self._is_late = self._cancel_work()

    def _cancel_work(self) -> bool:
        return self._cancel is not None and self._cancel()

    # --- for its executor

    def on_started(self, cancel: Cancel) -> None:
        self.has_started = True
        self._cancel = cancel

    def take_next(self) -> "AttemptRun | None":
        self._ended_at = self._context.clock()
        self.following = self._context.next()
        return self.following

    def on_done(self, output: JsonValue, error: BaseException | None) -> None:
        self._cancel = None  # which knows us: a cycle
        if self._timer is not None:
            self._timer.cancel()
        if self._is_cancelled:
            self._context.over(self, None)
        elif error is None:
            self._context.over(self, self._result(_SUCCEEDED, output))
        else:
            self._context.over(self, self._failure(error))

    # --- its result

    def _failure(self, error: BaseException) -> Result:
        if isinstance(error, NoHandler):
            return self._result(Outcome.REFUSED, error=safe_str(error))
        if self._is_late:
            late = f"took longer than {self.task.timeout:g} s"
            return self._result(Outcome.TIMED_OUT, error=late, types=types_of(TimeoutError()))
        if isinstance(error, HandlerFailed):
            return self._failed(error.failure)
        if isinstance(error, asyncio.CancelledError):
            return self._failed(Failure("the handler cancelled itself", types_of(error)))
        return self._failed(failure(error))

    def _failed(self, failure: Failure) -> Result:
        if failure.trace is not None:
            run, id, number = self.attempt
            log.warning(Log.HANDLER_RAISED, task=(run, id), attempt=number, exception=failure.trace)
        return self._result(Outcome.FAILED, error=failure.text, types=failure.types)

    def _result(
        self,
        outcome: Outcome,
        output: JsonValue = None,
        error: str | None = None,
        types: tuple[str, ...] = (),
    ) -> Result:
        return result(
            self.attempt,
            outcome,
            output=output,
            error=error,
            error_types=types,
            started_at=self.started_at,
            finished_at=self._ended_at or self._context.clock(),
        )
