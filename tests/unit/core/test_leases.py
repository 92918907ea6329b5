"""How long a silent worker is trusted."""

import pytest

from skillq.messages import Lease
from skillq_manager.core.leases import Verdict, judge

LEASE = Lease(suspect_after=15.0, dead_after=30.0)


@pytest.mark.parametrize(
    ("silence", "verdict"),
    [
        (0.0, Verdict.ALIVE),
        (14.9, Verdict.ALIVE),
        (15.0, Verdict.SUSPECT),
        (29.9, Verdict.SUSPECT),
        (30.0, Verdict.DEAD),
        (1e9, Verdict.DEAD),
    ],
)
def test_silence_makes_a_worker_suspect_and_then_dead(silence: float, verdict: Verdict) -> None:
    assert judge(LEASE, last_seen=1000.0, now=1000.0 + silence) is verdict
