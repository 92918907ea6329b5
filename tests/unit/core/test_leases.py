"""The length of its silence decides whether a worker is alive, suspect or dead."""

import pytest

from skillq.messages import Lease
from skillq_manager.core.rules.leases import LeaseVerdict, judge

LEASE = Lease(suspect_after=15.0, dead_after=30.0)


@pytest.mark.parametrize(
    ("silence", "verdict"),
    [
        (0.0, LeaseVerdict.ALIVE),
        (14.9, LeaseVerdict.ALIVE),
        (15.0, LeaseVerdict.SUSPECT),
        (29.9, LeaseVerdict.SUSPECT),
        (30.0, LeaseVerdict.DEAD),
        (1e9, LeaseVerdict.DEAD),
    ],
)
def test_silence_makes_a_worker_suspect_and_then_dead(
    silence: float, verdict: LeaseVerdict
) -> None:
    assert judge(LEASE, last_seen=1000.0, now=1000.0 + silence) is verdict
