"""What an attempt's failure says, fit for a message: a result that cannot be sent would never be counted."""

from typing import NamedTuple

from skillq.messages import shorten
from skillq_worker.handlers import OutputError, PayloadError

_MAX_ERROR = 2000


class TaskFailed(Exception):
    """Raised by work that says no; the message is all there is to say."""


class Failure(NamedTuple):
    text: str
    types: tuple[str, ...]  # the class of an error and its bases, by name


def failure(error: BaseException) -> Failure:
    """Our own errors say all there is to say; those of users' code are named, too."""
    ours = isinstance(error, TaskFailed | PayloadError | OutputError)
    text = said(error) if ours else f"{type(error).__name__}: {said(error)}"
    text = shorten(text.encode(errors="backslashreplace").decode(), _MAX_ERROR)
    return Failure(text, types_of(error))


def types_of(error: BaseException) -> tuple[str, ...]:
    """For `retry_on` and `no_retry_on`."""
    return tuple(cls.__name__ for cls in type(error).__mro__ if cls is not object)


def said(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - users' errors may fail at that, too, and as they like
        return "what it says cannot be read"
