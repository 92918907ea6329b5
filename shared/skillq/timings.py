"""Every duration of the protocol, in seconds, with one name, one value and one reason each.

`docs/generated.py` makes the table in docs/protocol.md from this module: the headings `# --- …` are its groups, the
docstring below a name is its line. The settings take their defaults from here.

`SKILLQ_TEST_TIME_SCALE=0.2` is for tests of whole processes only: it multiplies the waits of the protocol, so that a
lease ends after 6 seconds instead of 30. All processes of one test must have the same value: some durations are
arguments of queues, and a broker refuses a second declaration that differs. A duration that bounds real work (a
statement, a request, a handler that ends) is never scaled.
"""

import math
import os

_SCALE_VARIABLE = "SKILLQ_TEST_TIME_SCALE"


def _read_scale() -> float:
    written = os.environ.get(_SCALE_VARIABLE, "1")
    try:
        scale = float(written)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise SystemExit(f"{_SCALE_VARIABLE}: {written!r} is no positive number; it is for tests only")
    return scale


_SCALE = _read_scale()


def _scaled(seconds: float) -> float:
    """A wait of the protocol, which tests may shorten."""
    return seconds * _SCALE


# --- Worker: its lease

HEARTBEAT_SECONDS = _scaled(5.0)
"""A worker sends a heartbeat this often, give or take a tenth (`--heartbeat`)."""

MIN_HEARTBEAT_SECONDS = _scaled(0.5)
"""The shortest heartbeat that `--heartbeat` accepts: a shorter one would only load the manager."""

MISSED_HEARTBEATS = 3
"""This many heartbeats may be lost or late, one after the other, before a worker is suspect."""

SUSPECT_AFTER_SECONDS = MISSED_HEARTBEATS * HEARTBEAT_SECONDS
"""A worker that is silent for so long gets no new work (`--suspect-after`)."""

DEAD_AFTER_SECONDS = 2 * SUSPECT_AFTER_SECONDS
"""The lease: what a worker holds is lost after this silence, and goes to others (`--dead-after`)."""

MIN_DEAD_AFTER_SECONDS = _scaled(15.0)
"""The shortest lease that `--dead-after` accepts. A manager must notice before that it receives no heartbeats."""

MAX_LEASE_SECONDS = 3600.0
"""The longest of the three times of a lease that a message may carry."""

LEASE_CHECK_SECONDS = _scaled(1.0)
"""A worker compares its last confirmed heartbeat with its lease this often."""

# --- Worker: connecting, reporting and leaving

CONSUME_FIRST_RETRY_SECONDS = _scaled(0.05)
"""The first pause between two attempts of a worker to consume its queue; it doubles. A queue is declared in milliseconds."""

CONSUME_LAST_RETRY_SECONDS = _scaled(2.0)
"""The longest of these pauses."""

QUEUE_CHECK_SECONDS = _scaled(2.0)
"""A worker checks this often whether its queue is still there, and asks the manager for it if it is not."""

REPORT_FIRST_RETRY_SECONDS = _scaled(0.2)
"""The first pause before a report that the broker has not confirmed is sent again; it doubles."""

REPORT_LAST_RETRY_SECONDS = _scaled(5.0)
"""The longest of these pauses: reports are late by no more than this when a broker is back."""

RESULT_HOLD_SECONDS = 0.01
"""A result waits so long for others, while attempts wait for a slot: one message for all is cheaper (measured)."""

BRIEF_ATTEMPT_SECONDS = 0.02
"""Of an attempt that ends within this time only the end is reported, not the start (measured)."""

GRACE_SECONDS = 30.0
"""Running attempts may go on for so long after SIGTERM (`--grace`)."""

LEAVE_SECONDS = 5.0
"""A worker that leaves tries for so long to have its last reports confirmed."""

FAST_LEAVE_SECONDS = 1.0
"""The same after a second signal."""

HANDLER_LOOP_END_SECONDS = 0.5
"""The handlers' event loop has so long to end when the worker leaves; handlers that block it are left behind."""

HANDLER_LOOP_POLL_SECONDS = 0.002
"""The worker looks this often at what has ended there while one attempt follows another (measured)."""

PROCESS_POLL_SECONDS = 0.5
"""A handler's process is looked at this often: a process of its own may hold its line open after it has died."""

PROCESS_TERMINATE_SECONDS = 2.0
"""A handler's process has so long to clean up after SIGTERM, before SIGKILL."""

HEALTH_REQUEST_SECONDS = 5.0
"""A client of the health port has so long to send its request."""

# --- Manager: probing itself

PROBE_SECONDS = _scaled(5.0)
"""The manager sends a message to itself through each of its queues this often."""

HEARTBEATS_LOST_SECONDS = 2 * PROBE_SECONDS + _scaled(1.0)
"""Without a message for so long, two probes are missed: silence says nothing about workers any more."""

READY_WITHIN_SECONDS = 3 * PROBE_SECONDS
"""A consumer that has received nothing for so long is not proven live: the manager is not ready."""

# --- Manager: workers and attempts

SWEEP_SECONDS = _scaled(1.0)
"""The manager compares the silence of each worker with its lease this often."""

RESEND_AFTER_SECONDS = 2 * HEARTBEAT_SECONDS
"""An assignment is sent again if no heartbeat has named it for so long: one may have left before it came."""

LATE_AFTER_SECONDS = SUSPECT_AFTER_SECONDS / 2
"""A manager that was held up for so long may have results still to read, and calls no attempt overdue until it has read them."""

FORGET_DEPARTED_SECONDS = 2 * DEAD_AFTER_SECONDS
"""A message of a worker that has left may arrive that much later, and is not taken for a new worker's."""

OVERDUE_SLACK_SECONDS = _scaled(15.0)
"""A worker has so long, after the timeout of an attempt, to report that itself."""

UNROUTABLE_AFTER_SECONDS = 60.0
"""No worker can do a task for so long before its `unroutable` applies. Messages leave this default out: it stays."""

UNROUTABLE_CHECK_SECONDS = 1.0
"""A task that no worker can do is looked at again after this time at the earliest."""

# --- Manager: retries and dispatch

RETRY_DELAY_SECONDS = _scaled(2.0)
"""The longest pause after a first failure; it doubles with each (`--retry-delay`). Chance shortens it."""

RETRY_MAX_DELAY_SECONDS = _scaled(300.0)
"""The longest pause of all (`--retry-max-delay`)."""

MAX_RETRY_MAX_DELAY_SECONDS = 86_400.0
"""The longest pause that `--retry-max-delay` accepts: a day."""

RESERVE_FOR_SECONDS = _scaled(60.0)
"""Easy work waits so long before workers take it that are reserved for harder work (ageing)."""

EXCLUDE_FOR_SECONDS = _scaled(15.0)
"""A task waits so long for another worker than those on which it has failed."""

LOOKAHEAD_SECONDS = 0.1
"""The work that a worker has waiting takes no longer than this, as far as durations are known (measured)."""

RECALL_AFTER_SECONDS = 2 * LOOKAHEAD_SECONDS
"""An attempt that waits at a worker for longer is recalled when another worker is idle."""

RECALL_RETRY_SECONDS = 1.0
"""A recall without an answer is taken for lost after this time."""

# --- Manager: sending and receiving

ASSIGNMENT_RETRY_SECONDS = _scaled(1.0)
"""The pause before an assignment is published again that the broker has not confirmed."""

PARTS_SILENCE_SECONDS = _scaled(60.0)
"""The rest of a submission in parts is not waited for any more when no part has come for so long."""

PARTS_REQUEUE_SECONDS = _scaled(1.0)
"""Where too many parts wait, one submission is sent to the end of the queue this often."""

STOP_SECONDS = 10.0
"""A manager that leaves waits so long for its last messages, and for workers that it has sent home."""

DECISION_SECONDS = 30.0
"""A request over HTTP waits so long for a decision, and is answered with 503 then."""

HTTP_END_SECONDS = 0.5
"""Requests that are being answered have so long to end when the manager leaves."""

SUMMARY_PAUSE_SECONDS = 1.0
"""The pause between two summaries of completed runs: one that goes on and off completes as often as it has tasks."""

# --- Broker

AMQP_HEARTBEAT_SECONDS = max(1, round(_scaled(10.0)))
"""The heartbeat of AMQP connections, in whole seconds; a URL may set its own with `?heartbeat=`."""

CONNECTION_DEAD_SECONDS = 3 * AMQP_HEARTBEAT_SECONDS
"""After about this time a broker takes a silent client for dead and releases its queues."""

DRIVER_HEARTBEAT_SECONDS = AMQP_HEARTBEAT_SECONDS / 10
"""A busy connection shows the driver a heartbeat this often: messages, which prove as much, pass it by."""

RECONNECT_SECONDS = _scaled(1.0)
"""The pause between two attempts to connect to the broker."""

REOPEN_SECONDS = _scaled(0.5)
"""The pause between two attempts of a consumer to consume again."""

START_TIMEOUT_SECONDS = 30.0
"""A process that starts waits so long for a broker, a database or a manager (`--connect-timeout`)."""

CONNECT_SECONDS = 10.0
"""One attempt to connect takes no longer than this, be it to a broker, a database or a manager."""

MIN_CONNECT_SECONDS = 1.0
"""An attempt has at least this long, even at the end of the patience: a shorter one proves nothing."""

RPC_SECONDS = 10.0
"""The broker has so long to answer or to confirm; then the operation has failed, and may be tried again."""

CLOSE_SECONDS = 2.0
"""A channel or a connection has so long to close in order: a broker that is silent answers no goodbye."""

OUTAGE_REPORT_SECONDS = 60.0
"""The log says this often at most that connections are lost."""

HEARTBEAT_TTL_SECONDS = _scaled(10.0)
"""The queue of heartbeats drops what is older (`x-message-ttl`): an old sign of life is worth nothing."""

WORKER_QUEUE_EXPIRES_SECONDS = _scaled(600.0)
"""A worker's queue is deleted when it has had no consumer for so long (`x-expires`)."""

# --- Leadership

LEADER_LEASE_SECONDS = _scaled(10.0)
"""The lease of a leader: another manager may lead when it was not renewed for so long."""

RENEW_SECONDS = _scaled(3.0)
"""A leader renews its lease this often: two renewals may fail."""

STAND_BY_SECONDS = _scaled(1.0)
"""The other managers ask for the lead this often."""

BROKER_LOST_SECONDS = _scaled(8.0)
"""A leader that has lost the broker for so long steps down, as one that has died would: another may reach it."""

TAKE_OVER_SECONDS = CONNECTION_DEAD_SECONDS + _scaled(15.0)
"""A worker or a manager waits so long for its queue while another has it, who may be dead without the broker's notice."""

TAKE_OVER_RETRY_SECONDS = _scaled(1.0)
"""The pause between two attempts of a manager to consume such a queue."""

# --- Client

CLIENT_RETRY_SECONDS = _scaled(0.5)
"""The pause before a client tries again what the broker, or a manager that is not there yet, has not done."""

CLIENT_SILENCE_SECONDS = _scaled(15.0)
"""A client that follows a run sends an inquiry after this silence: it may have missed events."""

STATUS_QUERY_SECONDS = _scaled(10.0)
"""The manager has so long to answer an inquiry; after that the client waits for the next silence."""

RECEIPT_SECONDS = 5.0
"""`Client.submit` waits so long for the manager's receipt, unless its caller says otherwise."""

GROUP_COMMIT_WAIT_SECONDS = 0.05
"""The next group of submissions waits so long for the answer to the last one (measured)."""

GROUP_COMMIT_ABSENT_SECONDS = 1.0
"""A manager that has not answered for so long may be away: groups do not wait for it."""

API_SECONDS = 10.0
"""A command waits so long for the answer of a manager over HTTP."""

API_LONG_SECONDS = 120.0
"""The same for a request about many tasks, which takes a manager several decisions."""

WATCH_SECONDS = 1.0
"""`--watch` asks this often."""

# --- Store

DATABASE_RETRY_SECONDS = _scaled(0.5)
"""The pause between two attempts to open a database at the start."""

DATABASE_COMMAND_SECONDS = 60.0
"""A statement that takes longer is taken for lost, and with it its connection."""

DATABASE_POOL_SECONDS = 30.0
"""An operation waits so long for a connection while all are in use."""

DATABASE_END_SECONDS = 5.0
"""An operation that nobody waits for any more has so long to end by itself, before it is cut off."""

MIN_IDLE_TRANSACTION_SECONDS = 1.0
"""The shortest pause within a transaction after which PostgreSQL ends it; else half of a leader's lease."""

SQLITE_BUSY_SECONDS = 10.0
"""SQLite waits so long for another program that has the file locked."""
