"""An event loop that skips pauses: virtual time for tests that wait only for timers.

Time does not depend on the speed of the machine: each pass of the loop takes a few microseconds.
When the loop has nothing to do until its next timer, time moves to that timer at once. If something
outside can wake the loop (a thread, a socket, a process), the loop waits in real time as usual.
"""

import asyncio
import selectors
import threading
import time
from collections.abc import Mapping
from typing import Any

from skillq.runtime.clock import Clock

EPOCH = 1_800_000_000.0  # the time of day at which the clock of a test begins
_START = 1_000.0
_PASS_SECONDS = 1e-5  # so that a test that polls in each pass reaches a timer
_MAX_SKIPS = 1_000_000  # no test needs a tenth of them


class SkippingLoop(asyncio.SelectorEventLoop):
    """Is an asyncio loop with a clock of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # other threads read the time, too
        self._before = frozenset(threading.enumerate())  # these threads cannot wake the loop
        self._now, self._read_at = _START, time.monotonic()
        super().__init__(_SkippingSelector(self))

    @property
    def is_alone(self) -> bool:
        """Return whether no thread runs that could wake the loop."""
        return all(thread in self._before for thread in threading.enumerate())

    def time(self) -> float:
        with self._lock:
            read_at = time.monotonic()
            if not self.is_alone:
                self._now += read_at - self._read_at
            self._read_at = read_at
            return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward, as if the loop had stalled for so long."""
        with self._lock:
            self._now += seconds


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: SkippingLoop) -> None:
        super().__init__()
        self._loop = loop
        self._skipped = 0

    def select(self, timeout: float | None = None) -> Any:
        # One file is always registered: the read end of the loop's own pipe.
        if timeout is None or len(self.get_map()) > 1 or not self._loop.is_alone:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self._skip(timeout)
        return ready

    def _skip(self, seconds: float) -> None:
        self._loop.advance(max(seconds, _PASS_SECONDS))
        self._skipped += seconds > 0
        if self._skipped > _MAX_SKIPS:
            raise RuntimeError(
                "the test waits for ever: only timers fire, and nothing else happens"
            )


def loop_clock() -> Clock:
    """Return a clock for the time of day that follows the clock of the running loop."""
    time = asyncio.get_running_loop().time
    return lambda: EPOCH + time()


def advance(seconds: float) -> None:
    """Move the clock of the running loop forward, as if the loop had stalled for so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.advance(seconds)


LOOP_FACTORIES: Mapping[str, Any] = {"skipping": SkippingLoop}
