"""The status and the back-off of a task after an attempt without success."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core.rules.retry import RetryPolicy, RetryVerdict, decide
from tests.support.factories import budget, terms

POLICY = RetryPolicy(base=2.0, cap=300.0, max_losses=3)


def verdict_on(outcome: Outcome, **more: Any) -> RetryVerdict:
    facts = {"failures": 0, "losses": 0, "chance": 0.5} | more
    names = {name: facts.pop(name) for name in ("retry_on", "no_retry_on") if name in facts}
    task_terms = terms(max_attempts=facts.pop("max_attempts", 3), **names)
    return decide(POLICY, task_terms, outcome, **facts)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.FAILED, TaskStatus.FAILED), (Outcome.TIMED_OUT, TaskStatus.TIMED_OUT)],
)
def test_the_outcome_of_the_last_attempt_decides_the_status(
    outcome: Outcome, status: TaskStatus
) -> None:
    assert verdict_on(outcome, failures=2).status is TaskStatus.READY
    assert verdict_on(outcome, failures=3) == RetryVerdict(status)


def test_back_off_doubles_from_the_base_to_the_cap() -> None:
    delays = [
        verdict_on(Outcome.FAILED, failures=n, max_attempts=1000, chance=1.0).delay
        for n in (1, 2, 3, 8, 9, 999)
    ]
    assert delays == [2.0, 4.0, 8.0, 256.0, 300.0, 300.0]


def test_a_lost_attempt_is_retried_at_once_then_after_a_pause_and_then_dead_lettered() -> None:
    # The pause separates a task that kills its workers from the tasks that run beside it.
    assert verdict_on(Outcome.LOST, losses=1) == RetryVerdict(TaskStatus.READY)
    again = verdict_on(Outcome.LOST, losses=2)
    assert again.status is TaskStatus.READY
    assert again.delay > 0
    assert verdict_on(Outcome.LOST, losses=3) == RetryVerdict(TaskStatus.DEAD_LETTERED)


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.RETURNED, Outcome.CANCELLED])
def test_an_attempt_that_never_started_does_not_count_against_the_task(outcome: Outcome) -> None:
    assert verdict_on(outcome, failures=99, losses=99) == RetryVerdict(TaskStatus.READY)


@given(failures=st.integers(1, 999), chance=st.floats(0, 1, exclude_max=True))
@budget(100)
def test_the_back_off_with_jitter_stays_within_its_bounds(failures: int, chance: float) -> None:
    verdict = verdict_on(Outcome.FAILED, failures=failures, max_attempts=1000, chance=chance)
    assert 0.0 <= verdict.delay <= POLICY.cap


def test_an_exception_in_no_retry_on_ends_the_task_at_once() -> None:
    once = verdict_on(
        Outcome.FAILED,
        failures=1,
        no_retry_on=["ValueError"],
        error_types=["MyError", "ValueError"],
    )
    assert once == RetryVerdict(TaskStatus.FAILED)


def test_with_retry_on_only_these_exceptions_are_retried() -> None:
    named: dict[str, Any] = {"failures": 1, "retry_on": ["OSError"]}
    assert verdict_on(Outcome.FAILED, error_types=["TimeoutError", "OSError"], **named).delay
    assert verdict_on(Outcome.FAILED, error_types=["KeyError"], **named).status is TaskStatus.FAILED
    assert verdict_on(Outcome.TIMED_OUT, **named).status is TaskStatus.TIMED_OUT


def test_an_exception_in_both_retry_on_and_no_retry_on_is_not_retried() -> None:
    both = verdict_on(
        Outcome.FAILED,
        failures=1,
        retry_on=["OSError"],
        no_retry_on=["Gone"],
        error_types=["Gone", "OSError"],
    )
    assert both == RetryVerdict(TaskStatus.FAILED)
