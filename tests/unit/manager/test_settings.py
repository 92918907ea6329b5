"""The manager's settings that depend on each other."""

import pytest

from skillq import timings
from skillq.errors import UsageError
from skillq.runtime.settings import load_settings
from skillq_manager.core.rules.retry import RetryPolicy
from skillq_manager.settings import ManagerSettings
from skillq_worker.settings import WorkerSettings


def test_the_back_off_and_the_number_of_losses_are_settings() -> None:
    assert load_settings(ManagerSettings).retries == RetryPolicy()
    given = {"retry_delay": 0.5, "retry_max_delay": 10, "max_losses": 5}
    assert load_settings(ManagerSettings, given).retries == RetryPolicy(
        base=0.5, cap=10.0, max_losses=5
    )


def test_a_maximum_retry_delay_below_the_first_delay_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(ManagerSettings, {"retry_delay": 600})
    assert str(caught.value) == (
        "--retry-max-delay (SKILLQ_RETRY_MAX_DELAY): 300 s are fewer than --retry-delay, 600 s; "
        "raise the one, or lower the other"
    )


def test_the_shortest_lease_is_longer_than_the_time_to_notice_lost_heartbeats() -> None:
    dead_after = WorkerSettings.model_fields["dead_after"]
    (least,) = [rule.ge for rule in dead_after.metadata if hasattr(rule, "ge")]
    assert least > timings.HEARTBEATS_LOST_SECONDS
