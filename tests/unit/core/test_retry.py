"""What becomes of a task whose attempt did not succeed."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core.retry import RetryPolicy, Verdict, decide
from tests.factories import budget

POLICY = RetryPolicy(base=2.0, cap=300.0, max_losses=3)


def decided(outcome: Outcome, **more: Any) -> Verdict:
    facts = {"failures": 0, "losses": 0, "max_attempts": 3, "chance": 0.5} | more
    return decide(POLICY, outcome, **facts)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.FAILED, TaskStatus.FAILED), (Outcome.TIMED_OUT, TaskStatus.TIMED_OUT)],
)
def test_the_last_attempt_that_counts_decides_the_outcome(
    outcome: Outcome, status: TaskStatus
) -> None:
    assert decided(outcome, failures=2).status is TaskStatus.READY
    assert decided(outcome, failures=3) == Verdict(status)


def test_back_off_doubles_from_the_base_to_the_cap() -> None:
    delays = [
        decided(Outcome.FAILED, failures=n, max_attempts=1000, chance=1.0).delay
        for n in (1, 2, 3, 8, 9, 999)
    ]
    assert delays == [2.0, 4.0, 8.0, 256.0, 300.0, 300.0]


def test_a_lost_attempt_is_made_again_at_once_but_not_for_ever() -> None:
    assert decided(Outcome.LOST, losses=2) == Verdict(TaskStatus.READY)
    assert decided(Outcome.LOST, losses=3) == Verdict(TaskStatus.DEAD_LETTERED)


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.RETURNED, Outcome.CANCELLED])
def test_what_never_began_is_not_held_against_the_task(outcome: Outcome) -> None:
    assert decided(outcome, failures=99, losses=99) == Verdict(TaskStatus.READY)


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
@budget(100)
def test_jitter_never_leaves_its_bounds(failures: int, chance: float) -> None:
    verdict = decided(Outcome.FAILED, failures=failures, max_attempts=20_000, chance=chance)
    assert 0.0 <= verdict.delay <= POLICY.cap
