"""Whether a task whose attempt did not succeed is tried again, and when."""

from collections.abc import Sequence
from dataclasses import dataclass

from skillq import timings
from skillq.messages import Outcome, TaskStatus
from skillq_manager.core.model import Terms


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Back-off doubles from `base` to `cap` seconds, with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    base: float = timings.RETRY_DELAY_SECONDS
    cap: float = timings.RETRY_MAX_DELAY_SECONDS
    max_losses: int = 3  # a task that kills its workers must not kill the fleet


@dataclass(frozen=True, slots=True)
class RetryVerdict:
    """What becomes of the task; `delay` in seconds, when it is ready again."""

    status: TaskStatus
    delay: float = 0.0


_GIVEN_UP = {Outcome.FAILED: TaskStatus.FAILED, Outcome.TIMED_OUT: TaskStatus.TIMED_OUT}


def decide(
    policy: RetryPolicy,
    terms: Terms,
    outcome: Outcome,
    *,
    failures: int,
    losses: int,
    error_types: Sequence[str] = (),
    chance: float,
) -> RetryVerdict:
    """Decide after an attempt that did not succeed.

    `failures` and `losses` count this attempt; `error_types` are the names of the exception's class and
    its bases; `chance` is a random number in [0, 1).
    """
    if outcome is Outcome.LOST:
        return _after_a_loss(policy, losses, chance)
    if outcome not in _GIVEN_UP:
        return RetryVerdict(TaskStatus.READY)
    if failures >= terms.max_attempts or not _is_retryable(terms, error_types):
        return RetryVerdict(_GIVEN_UP[outcome])
    return RetryVerdict(TaskStatus.READY, _back_off(policy, failures, chance))


def _after_a_loss(policy: RetryPolicy, losses: int, chance: float) -> RetryVerdict:
    """At once the first time. Then apart from what was lost with it: one of them may have killed the worker."""
    if losses >= policy.max_losses:
        return RetryVerdict(TaskStatus.DEAD_LETTERED)
    if losses <= 1:
        return RetryVerdict(TaskStatus.READY)
    return RetryVerdict(TaskStatus.READY, _back_off(policy, losses, chance))


def _back_off(policy: RetryPolicy, times: int, chance: float) -> float:
    return min(policy.cap, policy.base * 2.0 ** min(times - 1, 64)) * chance


def _is_retryable(terms: Terms, error_types: Sequence[str]) -> bool:
    if not terms.no_retry_on.isdisjoint(error_types):
        return False
    return not terms.retry_on or not terms.retry_on.isdisjoint(error_types)
