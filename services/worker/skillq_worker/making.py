"""One attempt, from its begin to its end; whatever happens becomes a result."""

import asyncio
from collections.abc import Callable

import structlog
from pydantic import JsonValue

from skillq.clock import Clock
from skillq.logs import Log
from skillq.messages import Outcome, TaskAssignment
from skillq_worker.executor import Cancel, Executor, NoHandler
from skillq_worker.failing import Failure, failure, types_of
from skillq_worker.processes import FailedElsewhere
from skillq_worker.results import Result, result
from skillq_worker.slots import Attempt

log = structlog.get_logger()


class Making:
    """An attempt that has begun.

    `ended` hears once that it is over: with the result, or with None where it was called off.
    """

    __slots__ = (
        "_cancel",
        "_clock",
        "_ended",
        "_is_called_off",
        "_is_late",
        "_timer",
        "attempt",
        "began_at",
        "task",
    )

    def __init__(
        self,
        executor: Executor,
        attempt: Attempt,
        task: TaskAssignment,
        clock: Clock,
        ended: "Callable[[Making, Result | None], object]",
    ) -> None:
        self.attempt = attempt
        self.task = task
        self.began_at = clock()
        self._clock = clock
        self._ended = ended
        self._is_called_off = self._is_late = False
        self._timer: asyncio.TimerHandle | None = None
        self._cancel: Cancel | None = executor.begin(task, self._done)
        if task.timeout is not None:
            # On this loop, not on the users': they may block theirs.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(task.timeout, self._expire)

    def cancel(self) -> None:
        self._is_called_off = True
        self._call_off()

    def _expire(self) -> None:
        self._is_late = True
        self._call_off()

    def _call_off(self) -> None:
        if self._cancel is not None:
            self._cancel()

    def _done(self, output: JsonValue, error: BaseException | None) -> None:
        self._cancel = None  # it knows us
        if self._timer is not None:
            self._timer.cancel()
        if self._is_called_off:
            self._ended(self, None)
        elif error is None:
            self._ended(self, self._result(Outcome.SUCCEEDED, output))
        else:
            self._ended(self, self._failure(error))

    def _failure(self, error: BaseException) -> Result:
        if isinstance(error, NoHandler):
            return self._result(Outcome.REFUSED, error=str(error))
        if isinstance(error, FailedElsewhere):
            return self._failed(error.failure)
        if self._is_late:
            said = f"took longer than {self.task.timeout:g} s"
            return self._result(Outcome.TIMED_OUT, error=said, types=types_of(TimeoutError()))
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
            finished_at=self._clock(),
        )
