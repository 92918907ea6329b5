"""How long a worker that is silent is still trusted with what it holds."""

from dataclasses import dataclass
from enum import Enum

from skillq.messages import Lease


class Verdict(Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"  # no new work
    DEAD = "dead"  # its attempts are lost


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """All in seconds. How long a worker may be silent is in its profile."""

    resend_after: float = 10.0  # an assignment that the worker does not know of is sent again
    sweep_every: float = 1.0
    reserve_for: float = 60.0  # how long easy work waits until reserved workers take it
    exclude_for: float = 15.0  # how long it waits for another worker than those that failed it
    late_after: float = 7.5  # a manager held up for so long may have results still to read
    forget_after: float = 60.0  # what a departed worker said may arrive that much later


def judge(lease: Lease, last_seen: float, now: float) -> Verdict:
    silence = now - last_seen
    if silence >= lease.dead_after:
        return Verdict.DEAD
    return Verdict.SUSPECT if silence >= lease.suspect_after else Verdict.ALIVE
