"""Wait for a condition: `until` for threads and processes, `until_async` on an event loop."""

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable

WAIT_SECONDS = 100.0  # generous: the machine may be busy
_PAUSE_SECONDS, _ASYNC_PAUSE_SECONDS = 0.02, 0.005


class NotInTime(AssertionError):
    """Raised when a condition did not hold in time; the message says what was awaited."""


def until(holds: Callable[[], object], awaited: str, seconds: float = WAIT_SECONDS) -> None:
    """Return when `holds` returns a true value; `awaited` is a sentence for the error.

    Raises:
        NotInTime: if the condition does not hold within `seconds`.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise _not_in_time(awaited, seconds)
        time.sleep(_PAUSE_SECONDS)


async def until_async(
    holds: Callable[[], object], awaited: str, seconds: float = WAIT_SECONDS
) -> None:
    """Return when `holds`, a function or a coroutine function, returns a true value.

    Raises:
        NotInTime: if the condition does not hold within `seconds` of the running loop's time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not await _value(holds):
        if loop.time() > end:
            raise _not_in_time(awaited, seconds)
        await asyncio.sleep(_ASYNC_PAUSE_SECONDS)


async def _value(holds: Callable[[], object]) -> object:
    found = holds()
    return await found if isawaitable(found) else found


def _not_in_time(awaited: str, seconds: float) -> NotInTime:
    return NotInTime(f"{awaited}: not within {seconds:g} s")
