"""Describe the failure of an attempt by text that fits into a message.

The description is short and readable by every decoder: a result that cannot be sent would never be
counted.
"""

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeVar

from skillq.forms import one_line
from skillq.messages import shorten
from skillq_worker.execution.handlers import PayloadError
from skillq_worker.execution.outputs import OutputError

_MAX_ERROR_LENGTH = 2000
_MAX_LINES, _MAX_LINE_LENGTH = 200, 1000  # of a traceback
_RUNNER_PACKAGES = {
    "skillq_worker",
    "asyncio",
    "concurrent",
}  # packages whose frames precede users' code


T = TypeVar("T")


class TaskFailed(Exception):
    """Raised by a handler to fail its task; the message alone is the error."""


class HandlerFailed(Exception):
    """Raised in place of an exception of users' code, with its description.

    A description runs users' code, too, such as `__str__`. So it is made on the thread that ran the handler.
    """

    def __init__(self, failure: "Failure") -> None:
        super().__init__(failure.text)
        self.failure = failure


class Failure(NamedTuple):
    """The description of an exception."""

    text: str
    types: tuple[str, ...]  # the names of the exception's class and its bases
    trace: str | None = None  # the traceback; None for an error of the worker's own


def describe_failure(error: BaseException) -> Failure:
    """Describe an exception; never raise.

    The text of an exception of users' code starts with the name of its class. TaskFailed, PayloadError
    and OutputError are described by their message alone.
    """
    try:
        return _describe_failure(error)
    except BaseException:  # noqa: BLE001 - each attribute of an exception may be users' code
        return Failure("the handler raised what cannot be described", ("Exception",))


def _describe_failure(error: BaseException) -> Failure:
    is_own_error = isinstance(error, TaskFailed | PayloadError | OutputError)
    text = safe_str(error) if is_own_error else f"{type(error).__name__}: {safe_str(error)}"
    text = shorten(text.encode(errors="backslashreplace").decode(), _MAX_ERROR_LENGTH)
    return Failure(
        text, error_type_names(error), None if is_own_error else _format_traceback(error)
    )


def _format_traceback(error: BaseException) -> str:
    """Return the traceback as text for a log, from the first frame of users' code on."""
    try:
        lines = "".join(
            traceback.format_exception(type(error), error, _first_user_frame(error.__traceback__))
        )
    except BaseException:  # noqa: BLE001 - Python reads attributes that some exceptions lack
        return "its traceback cannot be read"
    readable = lines.rstrip().encode(errors="backslashreplace").decode().split("\n")
    return "\n".join(shorten(one_line(line), _MAX_LINE_LENGTH) for line in readable[-_MAX_LINES:])


def _first_user_frame(frame: TracebackType | None) -> TracebackType | None:
    while frame is not None and _package_name(frame) in _RUNNER_PACKAGES:
        frame = frame.tb_next
    return frame


def _package_name(frame: TracebackType) -> str:
    return str(frame.tb_frame.f_globals.get("__name__")).partition(".")[0]


def run_user_code(work: Callable[[], T]) -> T:
    """Call a function that runs users' code, on a thread where such code may run.

    Raises:
        HandlerFailed: the function raised an exception.
    """
    try:
        return work()
    except BaseException as error:  # noqa: BLE001 - SystemExit, too, is one attempt's failure
        failed = describe_failure(error)
    # Raised outside of `except`, so that it does not refer to the users' exception.
    raise HandlerFailed(failed)


def error_type_names(error: BaseException) -> tuple[str, ...]:
    """Return the names of an exception's class and bases, for `retry_on` and `no_retry_on`."""
    return tuple(cls.__name__ for cls in type(error).__mro__ if cls is not object)


def safe_str(error: BaseException) -> str:
    """Return the message of an exception; never raise."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - `__str__` of users' exceptions may raise anything
        return "what it says cannot be read"
