"""Every duration of the protocol in seconds, each with a name, a value and a reason.

`docs/generated.py` makes the table in docs/protocol.md from this module: the headings `# --- …` are the groups of
the table, the docstring below a name is its line. Settings have their defaults here.

`SKILLQ_TEST_TIME_SCALE=0.2` is for tests of whole processes only: it multiplies the waits of the protocol, so that a
lease ends after 6 seconds instead of 30. All processes of one test must have the same value: some durations are
arguments of queues, and a broker refuses a second declaration that differs. A duration that bounds real work (a
statement, a request, a handler that ends) is never scaled.
"""

import math
import os

_SCALE_VARIABLE = "SKILLQ_TEST_TIME_SCALE"


def _read_scale() -> float:
    text = os.environ.get(_SCALE_VARIABLE, "1")
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise SystemExit(f"{_SCALE_VARIABLE}: {text!r} is no positive number; it is for tests only")
    return scale


_SCALE = _read_scale()


def _scaled(seconds: float) -> float:
    """Return a wait of the protocol, which tests may shorten."""
    return seconds * _SCALE


# --- Worker: its lease

HEARTBEAT_SECONDS = _scaled(5.0)
"""A worker sends a heartbeat this often, plus or minus a tenth (`--heartbeat`)."""

MIN_HEARTBEAT_SECONDS = _scaled(0.5)
"""The shortest heartbeat that `--heartbeat` accepts: a shorter one would only load the manager."""

MISSED_HEARTBEATS = 3
"""This many heartbeats in succession may be lost or late before a worker is suspect."""

SUSPECT_AFTER_SECONDS = MISSED_HEARTBEATS * HEARTBEAT_SECONDS
"""A worker that is silent this long gets no new work (`--suspect-after`)."""

DEAD_AFTER_SECONDS = 2 * SUSPECT_AFTER_SECONDS
"""The lease: after this silence the attempts of a worker are lost, and other workers get the tasks (`--dead-after`)."""

MIN_DEAD_AFTER_SECONDS = _scaled(15.0)
"""The shortest lease that `--dead-after` accepts. A manager must notice earlier that it receives no heartbeats at all."""

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
"""A worker checks this often whether its queue exists, and asks the manager to declare it if not."""

REPORT_FIRST_RETRY_SECONDS = _scaled(0.2)
"""The first pause before a worker publishes a report again that the broker has not confirmed; it doubles."""

REPORT_LAST_RETRY_SECONDS = _scaled(5.0)
"""The longest of these pauses: reports are late by no more than this when a broker is back."""

RESULT_HOLD_SECONDS = 0.01
"""A result waits this long for others while attempts wait for a slot: one message for all is cheaper (measured)."""

BRIEF_ATTEMPT_SECONDS = 0.02
"""If an attempt ends within this time, the worker reports only its end, not its start (measured)."""

GRACE_SECONDS = 30.0
"""Running attempts may go on this long after SIGTERM (`--grace`)."""

LEAVE_SECONDS = 5.0
"""A worker that leaves waits this long for the confirms of its last reports."""

FAST_LEAVE_SECONDS = 1.0
"""A worker that leaves after a second signal waits this long for these confirms."""

HANDLER_LOOP_END_SECONDS = 0.5
"""The handlers' event loop has this long to end when the worker leaves; the worker abandons handlers that block it."""

HANDLER_LOOP_POLL_SECONDS = 0.002
"""The worker checks this often which attempts have ended on that loop, while one attempt follows another (measured)."""

PROCESS_POLL_SECONDS = 0.5
"""The worker checks this often whether a handler's process lives: a child of that process may keep its pipe open."""

PROCESS_TERMINATE_SECONDS = 2.0
"""A handler's process has this long to clean up after SIGTERM, before SIGKILL."""

HEALTH_REQUEST_SECONDS = 5.0
"""A client of the health port has this long to send its request."""

# --- Manager: probing itself

PROBE_SECONDS = _scaled(5.0)
"""The manager sends a message to itself through each of its queues this often."""

HEARTBEATS_LOST_SECONDS = 2 * PROBE_SECONDS + _scaled(1.0)
"""If no message comes for this long, two probes are missed: silence proves nothing about workers any more."""

READY_WITHIN_SECONDS = 3 * PROBE_SECONDS
"""A consumer that has received nothing for this long may be dead: the manager is not ready."""

# --- Manager: workers and attempts

SWEEP_SECONDS = _scaled(1.0)
"""The manager compares the silence of each worker with its lease this often."""

RESEND_AFTER_SECONDS = 2 * HEARTBEAT_SECONDS
"""An assignment is published again if no heartbeat has named it for this long: a heartbeat may have left earlier."""

LATE_AFTER_SECONDS = SUSPECT_AFTER_SECONDS / 2
"""A manager that was delayed this long may have unread results, and treats no attempt as overdue before it reads them."""

FORGET_DEPARTED_SECONDS = 2 * DEAD_AFTER_SECONDS
"""A message of a worker that has left may arrive this much later; the manager does not take it for a new worker's."""

OVERDUE_SLACK_SECONDS = _scaled(15.0)
"""A worker has this long, after the timeout of an attempt, to report the timeout itself."""

UNROUTABLE_AFTER_SECONDS = 60.0
"""The `unroutable` of a task applies when no worker could do it for this long. Messages omit it: it must not change."""

UNROUTABLE_CHECK_SECONDS = 1.0
"""The manager checks a task that no worker can do again after this time at the earliest."""

# --- Manager: retries and dispatch

RETRY_DELAY_SECONDS = _scaled(2.0)
"""The longest pause after a first failure; it doubles with each (`--retry-delay`). Jitter shortens it."""

RETRY_MAX_DELAY_SECONDS = _scaled(300.0)
"""The longest pause of all (`--retry-max-delay`)."""

MAX_RETRY_MAX_DELAY_SECONDS = 86_400.0
"""The longest pause that `--retry-max-delay` accepts: a day."""

RESERVE_FOR_SECONDS = _scaled(60.0)
"""Easy tasks wait this long before workers get them that are reserved for difficult tasks (ageing)."""

EXCLUDE_FOR_SECONDS = _scaled(15.0)
"""A task waits this long for a worker on which it has not failed."""

LOOKAHEAD_SECONDS = 0.1
"""The prefetched attempts of a worker take no longer than this together, as far as durations are known (measured)."""

RECALL_AFTER_SECONDS = 2 * LOOKAHEAD_SECONDS
"""An attempt that waits at a worker for longer is recalled when another worker is idle."""

RECALL_RETRY_SECONDS = 1.0
"""A recall without an answer counts as lost after this time."""

# --- Manager: sending and receiving

ASSIGNMENT_RETRY_SECONDS = _scaled(1.0)
"""The pause before the manager publishes an assignment again that the broker has not confirmed."""

PARTS_SILENCE_SECONDS = _scaled(60.0)
"""The manager waits this long for the next part of a submission."""

PARTS_REQUEUE_SECONDS = _scaled(1.0)
"""If too many parts wait, the manager requeues one submission at the end of the queue this often."""

STOP_SECONDS = 10.0
"""A manager that leaves waits this long for its last messages, and for the workers that it has stopped."""

DECISION_SECONDS = 30.0
"""A request over HTTP waits this long for a decision; then its answer is 503."""

HTTP_END_SECONDS = 0.5
"""Requests in progress have this long to end when the manager leaves."""

SUMMARY_PAUSE_SECONDS = 1.0
"""The pause between two summaries of completed runs: a run that gets task after task completes with each."""

# --- Broker

AMQP_HEARTBEAT_SECONDS = max(1, round(_scaled(10.0)))
"""The heartbeat of AMQP connections, in whole seconds; a URL may set its own with `?heartbeat=`."""

CONNECTION_DEAD_SECONDS = 3 * AMQP_HEARTBEAT_SECONDS
"""After about this time the broker closes the connection of a silent client and releases its queues."""

DRIVER_HEARTBEAT_SECONDS = AMQP_HEARTBEAT_SECONDS / 10
"""The fast path reports a heartbeat to the driver this often: the driver does not see the messages that prove as much."""

RECONNECT_SECONDS = _scaled(1.0)
"""The pause between two attempts to connect to the broker."""

REOPEN_SECONDS = _scaled(0.5)
"""The pause between two attempts of a consumer to consume again."""

START_TIMEOUT_SECONDS = 30.0
"""A process that starts waits this long for a broker, a database or a manager (`--connect-timeout`)."""

CONNECT_SECONDS = 10.0
"""One attempt to connect to a broker, a database or a manager takes no longer than this."""

MIN_CONNECT_SECONDS = 1.0
"""An attempt to connect has at least this long, even at the end of the timeout: a shorter one proves nothing."""

RPC_SECONDS = 10.0
"""The broker has this long to answer or to confirm; then the operation has failed, and may be repeated."""

CLOSE_SECONDS = 2.0
"""A channel or a connection has this long to close in order: a silent broker does not answer."""

OUTAGE_REPORT_SECONDS = 60.0
"""The log reports lost connections no more often than this."""

HEARTBEAT_TTL_SECONDS = _scaled(10.0)
"""The queue of heartbeats drops older ones (`x-message-ttl`): an old heartbeat proves nothing."""

WORKER_QUEUE_EXPIRES_SECONDS = _scaled(600.0)
"""A worker's queue is deleted when it has had no consumer for this long (`x-expires`)."""

# --- Leadership

LEADER_LEASE_SECONDS = _scaled(10.0)
"""The lease of a leader: another manager may lead when the leader has not renewed it for this long."""

RENEW_SECONDS = _scaled(3.0)
"""A leader renews its lease this often: two renewals may fail."""

STAND_BY_SECONDS = _scaled(1.0)
"""The other managers try to lead this often."""

BROKER_LOST_SECONDS = _scaled(8.0)
"""A leader that cannot reach the broker for this long steps down: another manager may reach it."""

TAKE_OVER_SECONDS = CONNECTION_DEAD_SECONDS + _scaled(15.0)
"""A worker or a manager waits this long for its queue while another consumer has it: that one may be dead."""

TAKE_OVER_RETRY_SECONDS = _scaled(1.0)
"""The pause between two attempts of a manager to consume such a queue."""

# --- Client

CLIENT_RETRY_SECONDS = _scaled(0.5)
"""The pause before a client repeats an operation that failed: the broker may be away, or no manager may have started."""

CLIENT_SILENCE_SECONDS = _scaled(15.0)
"""A client that follows a run sends a status query after this silence: it may have missed events."""

STATUS_QUERY_SECONDS = _scaled(10.0)
"""The manager has this long to answer a status query; after that the client waits for the next silence."""

RECEIPT_SECONDS = 5.0
"""`Client.submit` waits this long for the manager's receipt, unless its caller chooses another time."""

GROUP_COMMIT_WAIT_SECONDS = 0.05
"""The next group of submissions waits this long for the answer to the last one (measured)."""

GROUP_COMMIT_ABSENT_SECONDS = 1.0
"""A manager that has not answered for this long may be away: groups do not wait for its answer."""

API_SECONDS = 10.0
"""A command waits this long for the answer of a manager over HTTP."""

API_LONG_SECONDS = 120.0
"""A command about many tasks, which take the manager several decisions, waits this long for the answer."""

WATCH_SECONDS = 1.0
"""`--watch` queries the manager this often."""

# --- Store

DATABASE_RETRY_SECONDS = _scaled(0.5)
"""The pause between two attempts to open a database at the start."""

DATABASE_COMMAND_SECONDS = 60.0
"""A statement that takes longer counts as lost; its connection is closed."""

DATABASE_POOL_SECONDS = 30.0
"""An operation waits this long for a connection while all are in use."""

DATABASE_END_SECONDS = 5.0
"""An operation that nobody waits for any more has this long to end by itself, before it is cancelled."""

MIN_IDLE_TRANSACTION_SECONDS = 1.0
"""The shortest idle time in a transaction after which PostgreSQL ends it; else half of a leader's lease."""

SQLITE_BUSY_SECONDS = 10.0
"""SQLite waits this long for another program that has the file locked."""
