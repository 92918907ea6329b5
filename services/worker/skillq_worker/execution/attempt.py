"""One attempt, from its begin to its end; whatever happens becomes a result."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pydantic import JsonValue

from skillq.clock import Clock
from skillq.logs import Log
from skillq.messages import Outcome, TaskAssignment
from skillq_worker.executor import Cancel, Executor, NoHandler
from skillq_worker.failing import Failure, HandlerFailed, failure, said, types_of
from skillq_worker.results import Result, result
from skillq_worker.slots import Attempt

_SUCCEEDED = Outcome.SUCCEEDED  # to look it up for each attempt is slow on Python 3.11

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shop:
    """What an attempt needs of its worker."""

    executor: Executor
    clock: Clock
    next: "Callable[[], Making | None]"  # for the slot of one that has ended; on any thread
    begun: "Callable[[Making], object]"
    over: "Callable[[Making, Result | None], object]"  # without a result where it was called off


class Making:
    """One attempt. `following` has its slot after it; see `skillq_worker.executor.Job`."""

    __slots__ = (
        "_cancel",
        "_ended_at",
        "_is_called_off",
        "_is_late",
        "_shop",
        "_timer",
        "attempt",
        "began_at",
        "following",
        "has_begun",
        "task",
    )

    def __init__(self, shop: Shop, attempt: Attempt, task: TaskAssignment) -> None:
        self.attempt = attempt
        self.task = task
        self.began_at = shop.clock()
        self.following: Making | None = None
        self.has_begun = False
        self._shop = shop
        self._ended_at: float | None = None
        self._is_called_off = self._is_late = False
        self._cancel: Cancel | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Begin it, or take note that it has begun."""
        if not self.has_begun:
            self.began_at = self._shop.clock()
            self.begun(self._shop.executor.begin(self))
        if self.task.timeout is not None:
            # On this loop, not on the users': they may block theirs.
            left = self.began_at + self.task.timeout - self._shop.clock()
            self._timer = asyncio.get_running_loop().call_later(left, self._expire)
        self._shop.begun(self)

    def cancel(self) -> None:
        self._is_called_off = True
        self._call_off()

    def _expire(self) -> None:
        self._is_late = self._call_off()

    def _call_off(self) -> bool:
        return self._cancel is not None and self._cancel()

    # --- for its executor

    def begun(self, cancel: Cancel) -> None:
        self.has_begun = True
        self._cancel = cancel

    def next(self) -> "Making | None":
        self._ended_at = self._shop.clock()
        self.following = self._shop.next()
        return self.following

    def done(self, output: JsonValue, error: BaseException | None) -> None:
        self._cancel = None  # which knows us: a cycle
        if self._timer is not None:
            self._timer.cancel()
        if self._is_called_off:
            self._shop.over(self, None)
        elif error is None:
            self._shop.over(self, self._result(_SUCCEEDED, output))
        else:
            self._shop.over(self, self._failure(error))

    # --- its result

    def _failure(self, error: BaseException) -> Result:
        if isinstance(error, NoHandler):
            return self._result(Outcome.REFUSED, error=said(error))
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
            started_at=self.began_at,
            finished_at=self._ended_at or self._shop.clock(),
        )
