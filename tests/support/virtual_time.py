"""An event loop that skips its pauses: virtual time for tests that wait for timers alone.

Time does not depend on the speed of the machine: each turn of the loop takes a few microseconds.
When the loop has nothing to do until its next timer, time moves to that timer at once. If something
outside of the loop can wake the loop (a thread, a socket, a process), the loop waits in real time,
as any other does.
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
_TURN_SECONDS = 1e-5  # a test that polls in each turn waits for a timer, too
_MAX_SKIPS = 1_000_000  # pauses; no test has a tenth of it


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop of asyncio with a clock of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # other threads may read the time
        self._before = frozenset(threading.enumerate())  # these threads do not know the loop
        self._now, self._seen = _START, time.monotonic()
        super().__init__(_SkippingSelector(self))

    @property
    def is_alone(self) -> bool:
        """Whether no thread was started that might wake the loop."""
        return all(thread in self._before for thread in threading.enumerate())

    def time(self) -> float:
        with self._lock:
            seen = time.monotonic()
            if not self.is_alone:
                self._now += seen - self._seen
            self._seen = seen
            return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward, as if the loop had stood still for so long."""
        with self._lock:
            self._now += seconds


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: SkippingLoop) -> None:
        super().__init__()
        self._loop = loop
        self._skipped = 0

    def select(self, timeout: float | None = None) -> Any:
        # The one file that is always registered is the end of the loop's own pipe.
        if timeout is None or len(self.get_map()) > 1 or not self._loop.is_alone:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self._skip(timeout)
        return ready

    def _skip(self, seconds: float) -> None:
        self._loop.advance(max(seconds, _TURN_SECONDS))
        self._skipped += seconds > 0
        if self._skipped > _MAX_SKIPS:
            raise RuntimeError("the test waits in vain: its timers go on, and nothing else happens")


def loop_clock() -> Clock:
    """Return the time of day by the running loop: it passes as the loop's timers do."""
    time = asyncio.get_running_loop().time
    return lambda: EPOCH + time()


def advance(seconds: float) -> None:
    """Move the clock of the running loop forward, as if the loop had stood still for so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.advance(seconds)


LOOP_FACTORIES: Mapping[str, Any] = {"skipping": SkippingLoop}
