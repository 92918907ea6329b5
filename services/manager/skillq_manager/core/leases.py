"""How long a worker that is silent is still trusted with what it holds."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"  # no new work
    DEAD = "dead"  # its attempts are lost


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """All in seconds. A worker says that it is alive every 5 s."""

    suspect_after: float = 15.0
    dead_after: float = 30.0
    resend_after: float = 10.0  # an assignment that the worker does not know of is sent again
    sweep_every: float = 1.0
    reserve_for: float = 60.0  # how long easy work waits until reserved workers take it
    forget_after: float = 60.0  # what a departed worker said may arrive that much later


def judge(policy: LeasePolicy, last_seen: float, now: float) -> Verdict:
    silence = now - last_seen
    if silence >= policy.dead_after:
        return Verdict.DEAD
    return Verdict.SUSPECT if silence >= policy.suspect_after else Verdict.ALIVE
