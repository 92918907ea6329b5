"""Where the tests let a process die: `SKILLQ_CRASH_AT=manager.committed:3` kills it there, the third time.

There is a point between any two steps of receive, decide, commit, publish and acknowledge.
"""

import os
import signal
from itertools import count

from skillq.runtime.settings import read_test_variable

_point, _, _which = (read_test_variable("CRASH_AT") or "").partition(":")
_times = count(1)


def crash_if_chosen(point: str) -> None:
    """Die as a machine that loses its power does, if the tests want it here."""
    if point == _point and next(_times) == int(_which or 1):
        os.kill(os.getpid(), signal.SIGKILL)
