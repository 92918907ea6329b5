"""Leases: how long a silent worker keeps its attempts.

See docs/adr/0014-let-each-worker-set-its-lease.md.
"""

from dataclasses import dataclass
from enum import Enum

from skillq import timings
from skillq.messages import Lease


class LeaseVerdict(Enum):
    """The judgement on the silence of a worker."""

    ALIVE = "alive"
    SUSPECT = "suspect"  # the worker gets nothing new
    DEAD = "dead"  # the attempts of the worker are lost


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """Times of the manager's sweep, in seconds; `skillq.timings` explains each of them.

    The lease itself, how long a worker may be silent, is in the profile of the worker.
    """

    resend_after: float = timings.RESEND_AFTER_SECONDS
    sweep_every: float = timings.SWEEP_SECONDS
    reserve_for: float = timings.RESERVE_FOR_SECONDS
    exclude_for: float = timings.EXCLUDE_FOR_SECONDS
    late_after: float = timings.LATE_AFTER_SECONDS
    forget_after: float = timings.FORGET_DEPARTED_SECONDS


def judge(lease: Lease, last_seen: float, now: float) -> LeaseVerdict:
    """Return the verdict on a worker whose last message came at `last_seen`."""
    silence = now - last_seen
    if silence >= lease.dead_after:
        return LeaseVerdict.DEAD
    return LeaseVerdict.SUSPECT if silence >= lease.suspect_after else LeaseVerdict.ALIVE
