"""What the log says of connections that are lost and come back."""

import time

import structlog

from skillq import timings
from skillq.runtime.logs import Log

log = structlog.get_logger()


class OutageLog:
    """Tells of lost connections: once a minute at most, however often they are lost."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._times = 0
        self._told_at = -timings.OUTAGE_REPORT_SECONDS
        self._down: set[str] = set()
        self._told = False

    def lost(self, connection: str, reason: str) -> None:
        self._times += 1
        self._down.add(connection)
        # An application with an SDK client in it hears of it where it has set up its log.
        if (
            time.monotonic() - self._told_at < timings.OUTAGE_REPORT_SECONDS
            or not structlog.is_configured()
        ):
            return
        log.warning(Log.CONNECTION_LOST, broker=self._broker, reason=reason, times=self._times)
        self._told_at, self._times, self._told = time.monotonic(), 0, True

    def back(self, connection: str) -> None:
        self._down.discard(connection)
        if self._told and not self._down:
            log.info(Log.CONNECTION_RESTORED, broker=self._broker)
            self._told = False
