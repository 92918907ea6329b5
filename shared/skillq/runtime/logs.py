"""Logs: events with fields, from a closed list of names."""

import logging
import sys
from contextlib import suppress
from enum import StrEnum
from typing import TextIO, cast

import structlog


class Log(StrEnum):
    """Every event that is logged."""

    STARTED = "started"
    STOPPED = "stopped"
    DRAINING = "draining"
    HTTP_SERVING = "http_serving"
    WAITING_FOR_MANAGER = "waiting_for_manager"
    WAITING_FOR_QUEUE = "waiting_for_queue"
    CONNECTED = "connected"
    CONNECTION_LOST = "connection_lost"  # `times` since it was last told
    CONNECTION_RESTORED = "connection_restored"
    LEADING = "leading"
    STANDING_BY = "standing_by"
    STEPPED_DOWN = "stepped_down"
    STORE_FAILED = "store_failed"  # it is asked again until it answers
    HEARTBEATS_LOST = (
        "heartbeats_lost"  # no heartbeats arrive, not even the manager's own: leases are frozen
    )
    HEARTBEATS_RECOVERED = "heartbeats_recovered"
    FENCED = "fenced"  # no heartbeat was confirmed for a while: nothing new is started
    PROCESS_STALLED = "process_stalled"  # the whole worker, heartbeats too
    LEASE_RENEWED = "lease_renewed"
    MESSAGE_UNREADABLE = "message_unreadable"
    SUBMISSION_ACCEPTED = "submission_accepted"
    SUBMISSION_REFUSED = "submission_refused"
    RUN_COMPLETED = "run_completed"
    SUMMARY_NOT_PRINTED = "summary_not_printed"  # standard output takes it no more
    TASK_ASSIGNED = "task_assigned"
    TASK_ENDED = "task_ended"
    STALE_RESULT = "stale_result"
    ATTEMPT_STARTED = "attempt_started"
    ATTEMPT_ENDED = "attempt_ended"
    HANDLER_RAISED = (
        "handler_raised"  # with the traceback; not for what says all itself, as TaskFailed
    )
    HANDLER_LOOP_STOPPED = "handler_loop_stopped"  # the loop of all async ones
    ATTEMPT_CANCELLED = "attempt_cancelled"
    WORKER_CHANGED = "worker_changed"
    ASSIGNMENT_RETURNED = "assignment_returned"
    PUBLISH_NOT_CONFIRMED = "publish_not_confirmed"


def configure(level: str, format: str | None) -> None:
    """Send logs to standard error, as `console` or `json`; None chooses by whether that is a terminal."""
    console = format == "console" or (format is None and sys.stderr.isatty())
    # The driver logs each reconnect attempt with a traceback; our own events say what matters.
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
    """Standard error; that it cannot be written, since its reader has gone or the disk is full, stops nobody."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()
