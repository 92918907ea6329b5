"""Decide whether a task is retried after an attempt without success, and when."""

from collections.abc import Sequence
from dataclasses import dataclass

from skillq import timings
from skillq.messages import Outcome, TaskStatus
from skillq_manager.core.model import Terms


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The back-off doubles from `base` to `cap` seconds, with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    base: float = timings.RETRY_DELAY_SECONDS
    cap: float = timings.RETRY_MAX_DELAY_SECONDS
    max_losses: int = 3  # a task that kills its workers must not kill all of them


@dataclass(frozen=True, slots=True)
class RetryVerdict:
    """The next status of the task; `delay`: the back-off in seconds, if the status is ready."""

    status: TaskStatus
    delay: float = 0.0


_STATUS_AFTER = {Outcome.FAILED: TaskStatus.FAILED, Outcome.TIMED_OUT: TaskStatus.TIMED_OUT}


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
    """Return the next status of a task after an attempt without success.

    `failures` and `losses` include this attempt. `error_types` are the names of the exception's
    class and of its bases. `chance` is a random number in [0, 1).
    """
    if outcome is Outcome.LOST:
        return _after_loss(policy, losses, chance)
    if outcome not in _STATUS_AFTER:
        return RetryVerdict(TaskStatus.READY)
    if failures >= terms.max_attempts or not _is_retryable(terms, error_types):
        return RetryVerdict(_STATUS_AFTER[outcome])
    return RetryVerdict(TaskStatus.READY, _back_off(policy, failures, chance))


def _after_loss(policy: RetryPolicy, losses: int, chance: float) -> RetryVerdict:
    """Return ready at once after the first loss, then with back-off, at last dead-lettered.

    The back-off separates tasks that were lost together: one of them may have killed the worker.
    """
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
