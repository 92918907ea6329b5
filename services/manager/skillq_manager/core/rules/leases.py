"""How long a worker that is silent is still trusted with what it holds."""

from dataclasses import dataclass
from enum import Enum

from skillq import timings
from skillq.messages import Lease


class LeaseVerdict(Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"  # no new work
    DEAD = "dead"  # its attempts are lost


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """All in seconds; `skillq.timings` says why. How long a worker may be silent is in its profile."""

    resend_after: float = timings.RESEND_AFTER_SECONDS
    sweep_every: float = timings.SWEEP_SECONDS
    reserve_for: float = timings.RESERVE_FOR_SECONDS
    exclude_for: float = timings.EXCLUDE_FOR_SECONDS
    late_after: float = timings.LATE_AFTER_SECONDS
    forget_after: float = timings.FORGET_DEPARTED_SECONDS


def judge(lease: Lease, last_seen: float, now: float) -> LeaseVerdict:
    silence = now - last_seen
    if silence >= lease.dead_after:
        return LeaseVerdict.DEAD
    return LeaseVerdict.SUSPECT if silence >= lease.suspect_after else LeaseVerdict.ALIVE
