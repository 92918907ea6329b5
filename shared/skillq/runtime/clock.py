"""The clock of all processes. The manager's core gets the time as an argument instead."""

import time
from collections.abc import Callable

Clock = Callable[[], float]


def steady_clock() -> Clock:
    """Return a clock in seconds since the epoch (UTC) that never goes back.

    The wall clock is read once, here; after that, monotonic time is added to the reading. So no lease ends
    because somebody sets the wall clock.
    """
    offset = time.time() - time.monotonic()  # noqa: TID251 - the one place that reads the wall clock
    return lambda: offset + time.monotonic()
