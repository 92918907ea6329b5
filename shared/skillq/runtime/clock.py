"""The clock of the shells; the core is handed its readings."""

import time
from collections.abc import Callable

Clock = Callable[[], float]


def steady_clock() -> Clock:
    """Seconds since the epoch (UTC) that never go back: the wall clock read once, carried on monotonically.

    Leases must not end because somebody set the clock.
    """
    offset = time.time() - time.monotonic()  # noqa: TID251 - the one place that reads the wall clock
    return lambda: offset + time.monotonic()
