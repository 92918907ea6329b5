"""What an attempt's failure says, fit for a message: a result that cannot be sent would never be counted."""

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeVar

from skillq.forms import one_line
from skillq.messages import shorten
from skillq_worker.execution.handlers import PayloadError
from skillq_worker.execution.outputs import OutputError

_MAX_ERROR = 2000
_MAX_LINES, _MAX_LINE = 200, 1000  # of a traceback
_RUNNERS = {"skillq_worker", "asyncio", "concurrent"}  # packages between the worker and users' code


T = TypeVar("T")


class TaskFailed(Exception):
    """Raised by work that says no; the message is all there is to say."""


class HandlerFailed(Exception):
    """Raised for what users' code raised. To tell of that runs their code, too: it was done where theirs ran."""

    def __init__(self, failure: "Failure") -> None:
        super().__init__(failure.text)
        self.failure = failure


class Failure(NamedTuple):
    text: str
    types: tuple[str, ...]  # the class of an error and its bases, by name
    trace: str | None = None  # where users' code raised it; None where the text says all


def failure(error: BaseException) -> Failure:
    """Our own errors say all there is to say; those of users' code are named, too. It never raises."""
    try:
        return _failure(error)
    except BaseException:  # noqa: BLE001 - all that is asked of an error may be users' code
        return Failure("the handler raised what cannot be told of", ("Exception",))


def _failure(error: BaseException) -> Failure:
    ours = isinstance(error, TaskFailed | PayloadError | OutputError)
    text = safe_str(error) if ours else f"{type(error).__name__}: {safe_str(error)}"
    text = shorten(text.encode(errors="backslashreplace").decode(), _MAX_ERROR)
    return Failure(text, types_of(error), None if ours else _trace(error))


def _trace(error: BaseException) -> str:
    """The traceback as it may be logged, from the first frame on that is not ours."""
    try:
        lines = "".join(
            traceback.format_exception(type(error), error, _from_users(error.__traceback__))
        )
    except BaseException:  # noqa: BLE001 - and Python reads more of some errors than they have
        return "its traceback cannot be read"
    readable = lines.rstrip().encode(errors="backslashreplace").decode().split("\n")
    return "\n".join(shorten(one_line(line), _MAX_LINE) for line in readable[-_MAX_LINES:])


def _from_users(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and _package(frames) in _RUNNERS:
        frames = frames.tb_next
    return frames


def _package(frames: TracebackType) -> str:
    return str(frames.tb_frame.f_globals.get("__name__")).partition(".")[0]


def run_user_code(work: Callable[[], T]) -> T:
    """Do it, where users' code may run.

    Raises:
        HandlerFailed: it raised something.
    """
    try:
        return work()
    except BaseException as error:  # noqa: BLE001 - SystemExit, too, is one attempt's failure
        failed = failure(error)
    raise HandlerFailed(failed)  # here, so that it does not hold what they raised


def types_of(error: BaseException) -> tuple[str, ...]:
    """For `retry_on` and `no_retry_on`."""
    return tuple(cls.__name__ for cls in type(error).__mro__ if cls is not object)


def safe_str(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - users' errors may fail at that, too, and as they like
        return "what it says cannot be read"
