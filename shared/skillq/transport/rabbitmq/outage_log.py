"""Log records of connections that are lost and restored."""

import time

import structlog

from skillq import timings
from skillq.runtime.logs import Log

log = structlog.get_logger()


class OutageLog:
    """Logs lost connections, at most once in `timings.OUTAGE_REPORT_SECONDS`."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._losses = 0
        self._reported_at = -timings.OUTAGE_REPORT_SECONDS
        self._lost_connections: set[str] = set()
        self._reported = False

    def connection_lost(self, connection: str, reason: str) -> None:
        """Count a lost connection, and log the outage if no record was written recently."""
        self._losses += 1
        self._lost_connections.add(connection)
        # An application that uses the client gets log records only if it has configured structlog.
        if (
            time.monotonic() - self._reported_at < timings.OUTAGE_REPORT_SECONDS
            or not structlog.is_configured()
        ):
            return
        log.warning(Log.CONNECTION_LOST, broker=self._broker, reason=reason, times=self._losses)
        self._reported_at, self._losses, self._reported = time.monotonic(), 0, True

    def connection_restored(self, connection: str) -> None:
        """Log that the outage is over, once all connections are restored."""
        self._lost_connections.discard(connection)
        if self._reported and not self._lost_connections:
            log.info(Log.CONNECTION_RESTORED, broker=self._broker)
            self._reported = False
