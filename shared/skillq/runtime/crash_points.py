"""Crash points: places in the code where a test kills the process.

`SKILLQ_CRASH_AT=manager.committed:3` kills the process when it passes the point `manager.committed` for the
third time. There is a point between any two steps of receive, decide, commit, publish and acknowledge.
"""

import os
import signal
from itertools import count

from skillq.runtime.settings import read_test_variable

_chosen_point, _, _chosen_pass = (read_test_variable("CRASH_AT") or "").partition(":")
_passes = count(1)


def crash_if_chosen(point: str) -> None:
    """Kill this process, as a power failure would, if a test has chosen this point."""
    if point == _chosen_point and next(_passes) == int(_chosen_pass or 1):
        os.kill(os.getpid(), signal.SIGKILL)
