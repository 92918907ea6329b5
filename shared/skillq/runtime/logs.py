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
    CONNECTION_BACK = "connection_back"
    LEADING = "leading"
    STANDING_BY = "standing_by"
    STEPPED_DOWN = "stepped_down"
    STORE_FAILED = "store_failed"  # it is asked again until it answers
    BLINDED = "blinded"  # no heartbeats arrive, not even the manager's own: leases are frozen
    SIGHTED = "sighted"
    FENCED = "fenced"  # no heartbeat was confirmed for a while: nothing new is started
    STOOD_STILL = "stood_still"  # the whole worker, heartbeats too
    LEASE_RENEWED = "lease_renewed"
    MESSAGE_PARKED = "message_parked"
    SUBMISSION_ACCEPTED = "submission_accepted"
    SUBMISSION_REFUSED = "submission_refused"
    RUN_COMPLETED = "run_completed"
    SUMMARY_UNREAD = "summary_unread"  # standard output takes it no more
    TASK_ASSIGNED = "task_assigned"
    TASK_ENDED = "task_ended"
    RESULT_STALE = "result_stale"
    ATTEMPT_STARTED = "attempt_started"
    ATTEMPT_ENDED = "attempt_ended"
    HANDLER_RAISED = (
        "handler_raised"  # with the traceback; not for what says all itself, as TaskFailed
    )
    HANDLERS_ENDED = "handlers_ended"  # the loop of all async ones
    ATTEMPT_ABORTED = "attempt_aborted"
    WORKER_CHANGED = "worker_changed"
    ASSIGNMENT_RETURNED = "assignment_returned"
    NOT_CONFIRMED = "not_confirmed"


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
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Heedless(sys.stderr))),
        cache_logger_on_first_use=False,
    )


class _Heedless:
    """Standard error; that it cannot be written, since its reader has gone or the disk is full, stops nobody."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()
