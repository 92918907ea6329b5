"""Logs: events with fields. `Log` is the closed list of the events' names."""

import logging
import sys
from contextlib import suppress
from enum import StrEnum
from typing import TextIO, cast

import structlog


class Log(StrEnum):
    """The names of all events that are logged."""

    STARTED = "started"
    STOPPED = "stopped"
    DRAINING = "draining"
    HTTP_SERVING = "http_serving"
    WAITING_FOR_MANAGER = "waiting_for_manager"
    WAITING_FOR_QUEUE = "waiting_for_queue"
    CONNECTED = "connected"
    CONNECTION_LOST = "connection_lost"  # `times` since the last such event
    CONNECTION_RESTORED = "connection_restored"
    LEADING = "leading"
    STANDING_BY = "standing_by"
    STEPPED_DOWN = "stepped_down"
    STORE_FAILED = "store_failed"  # the operation is repeated until the store answers
    # No heartbeats arrive, and not even the manager's own probes do: leases are frozen.
    HEARTBEATS_LOST = "heartbeats_lost"
    HEARTBEATS_RECOVERED = "heartbeats_recovered"
    FENCED = "fenced"  # no heartbeat was confirmed for a while: no new attempt starts
    # The whole worker did not run, so that it sent no heartbeats.
    PROCESS_STALLED = "process_stalled"
    LEASE_RENEWED = "lease_renewed"
    MESSAGE_UNREADABLE = "message_unreadable"
    SUBMISSION_ACCEPTED = "submission_accepted"
    SUBMISSION_REFUSED = "submission_refused"
    RUN_COMPLETED = "run_completed"
    SUMMARY_NOT_PRINTED = "summary_not_printed"  # standard output cannot be written any more
    TASK_ASSIGNED = "task_assigned"
    TASK_ENDED = "task_ended"
    STALE_RESULT = "stale_result"
    ATTEMPT_STARTED = "attempt_started"
    ATTEMPT_ENDED = "attempt_ended"
    # With the traceback; not for errors that explain themselves, as TaskFailed does.
    HANDLER_RAISED = "handler_raised"
    HANDLER_LOOP_STOPPED = "handler_loop_stopped"  # the event loop of all async handlers
    ATTEMPT_CANCELLED = "attempt_cancelled"
    WORKER_CHANGED = "worker_changed"
    ASSIGNMENT_RETURNED = "assignment_returned"
    PUBLISH_NOT_CONFIRMED = "publish_not_confirmed"


def configure(level: str, format: str | None) -> None:
    """Send logs to standard error as `console` or `json`; None: `console` on a terminal."""
    console = format == "console" or (format is None and sys.stderr.isatty())
    # The driver logs each reconnect attempt with a traceback; our own events report outages.
    for noisy in ("aio_pika", "aiormq", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
            if console
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _LenientStream(sys.stderr))),
        cache_logger_on_first_use=False,
    )


class _LenientStream:
    """Standard error that ignores errors: a full disk or a closed pipe stops no process."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()
