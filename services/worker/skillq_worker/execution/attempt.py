"""Run one attempt from start to end, and turn its outcome into a result."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pydantic import JsonValue

from skillq.messages import Outcome, TaskAssignment
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq_worker.execution.executor import CancelJob, Executor, NoHandler
from skillq_worker.execution.failures import (
    Failure,
    HandlerFailed,
    describe_failure,
    error_type_names,
    safe_str,
)
from skillq_worker.execution.slots import Attempt
from skillq_worker.results import Result, make_result

_SUCCEEDED = Outcome.SUCCEEDED  # a lookup in the enum for each attempt is slow on Python 3.11

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """The executor, the clock and the callbacks that the runs of one worker share.

    `take_next` returns the next run for the slot of an ended attempt; it is called on any thread.
    `on_ended` gets the ended run and its result, or None if the attempt was cancelled.
    """

    executor: Executor
    clock: Clock
    take_next: "Callable[[], AttemptRun | None]"
    on_started: "Callable[[AttemptRun], object]"
    on_ended: "Callable[[AttemptRun, Result | None], object]"


class AttemptRun:
    """One running attempt. Implements `skillq_worker.execution.executor.Job`.

    `successor` is the run that gets the slot of this one when this one has ended.
    """

    __slots__ = (
        "_cancel_job",
        "_context",
        "_ended_at",
        "_is_cancelled",
        "_is_timed_out",
        "_timer",
        "assignment",
        "attempt",
        "has_started",
        "started_at",
        "successor",
    )

    def __init__(self, context: AttemptContext, attempt: Attempt, task: TaskAssignment) -> None:
        self.attempt = attempt
        self.assignment = task
        self.started_at = context.clock()
        self.successor: AttemptRun | None = None
        self.has_started = False
        self._context = context
        self._ended_at: float | None = None
        self._is_cancelled = self._is_timed_out = False
        self._cancel_job: CancelJob | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the attempt unless it has started; start its timeout, and report the start."""
        if not self.has_started:
            self.started_at = self._context.clock()
            self.on_started(self._context.executor.start(self))
        if self.assignment.timeout is not None:
            # On the worker's loop: handlers may block their own loop.
            seconds_left = self.started_at + self.assignment.timeout - self._context.clock()
            self._timer = asyncio.get_running_loop().call_later(seconds_left, self._on_timeout)
        self._context.on_started(self)

    def cancel(self) -> None:
        """Cancel the attempt; its run ends without a result."""
        self._is_cancelled = True
        self._cancel_work()

    def _on_timeout(self) -> None:
        self._is_timed_out = self._cancel_work()

    def _cancel_work(self) -> bool:
        return self._cancel_job is not None and self._cancel_job()

    # --- called by the executor

    def on_started(self, cancel: CancelJob) -> None:
        """Implements `Job.on_started`."""
        self.has_started = True
        self._cancel_job = cancel

    def take_next(self) -> "AttemptRun | None":
        """Implements `Job.take_next`."""
        self._ended_at = self._context.clock()
        self.successor = self._context.take_next()
        return self.successor

    def on_done(self, output: JsonValue, error: BaseException | None) -> None:
        """Implements `Job.on_done`: report the result."""
        self._cancel_job = None  # it refers to this object: a reference cycle
        if self._timer is not None:
            self._timer.cancel()
        if self._is_cancelled:
            self._context.on_ended(self, None)
        elif error is None:
            self._context.on_ended(self, self._make_result(_SUCCEEDED, output))
        else:
            self._context.on_ended(self, self._error_result(error))

    # --- the result

    def _error_result(self, error: BaseException) -> Result:
        if isinstance(error, NoHandler):
            return self._make_result(Outcome.REFUSED, error=safe_str(error))
        if self._is_timed_out:
            reason = f"took longer than {self.assignment.timeout:g} s"
            return self._make_result(
                Outcome.TIMED_OUT, error=reason, types=error_type_names(TimeoutError())
            )
        if isinstance(error, HandlerFailed):
            return self._failure_result(error.failure)
        if isinstance(error, asyncio.CancelledError):
            return self._failure_result(
                Failure("the handler cancelled itself", error_type_names(error))
            )
        return self._failure_result(describe_failure(error))

    def _failure_result(self, failure: Failure) -> Result:
        if failure.trace is not None:
            run, id, number = self.attempt
            log.warning(Log.HANDLER_RAISED, task=(run, id), attempt=number, exception=failure.trace)
        return self._make_result(Outcome.FAILED, error=failure.text, types=failure.types)

    def _make_result(
        self,
        outcome: Outcome,
        output: JsonValue = None,
        error: str | None = None,
        types: tuple[str, ...] = (),
    ) -> Result:
        return make_result(
            self.attempt,
            outcome,
            output=output,
            error=error,
            error_types=types,
            started_at=self.started_at,
            finished_at=self._ended_at or self._context.clock(),
        )
