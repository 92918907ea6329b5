"""Durations that depend on each other keep their order at the real and the test scale."""

import runpy
import subprocess
import sys
from collections.abc import Mapping

import pytest

from skillq import timings

VARIABLE = "SKILLQ_TEST_TIME_SCALE"
NAMES = [name for name in vars(timings) if name.endswith("_SECONDS")]


def durations_at_scale(scale: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setenv(VARIABLE, scale)
    return {
        name: value
        for name, value in runpy.run_path(str(timings.__file__)).items()
        if name.endswith("_SECONDS")
    }


@pytest.fixture(params=["1", "0.2", "0.1"])
def durations(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, float]:
    return durations_at_scale(request.param, monkeypatch)


@pytest.mark.parametrize(
    ("shorter", "longer", "factor"),
    [
        ("HEARTBEAT_SECONDS", "SUSPECT_AFTER_SECONDS", 3),
        ("SUSPECT_AFTER_SECONDS", "DEAD_AFTER_SECONDS", 1.5),
        ("MIN_DEAD_AFTER_SECONDS", "DEAD_AFTER_SECONDS", 1),
        ("DEAD_AFTER_SECONDS", "MAX_LEASE_SECONDS", 1),
        ("LEASE_CHECK_SECONDS", "HEARTBEAT_SECONDS", 2),
        ("SWEEP_SECONDS", "HEARTBEAT_SECONDS", 2),
        # A heartbeat may be in flight when the assignment arrives.
        ("HEARTBEAT_SECONDS", "RESEND_AFTER_SECONDS", 2),
        # The broker keeps one heartbeat at least, and none that would make a suspect worker look alive.
        ("HEARTBEAT_SECONDS", "HEARTBEAT_TTL_SECONDS", 1),
        ("HEARTBEAT_TTL_SECONDS", "SUSPECT_AFTER_SECONDS", 1),
        # A manager knows whether it receives heartbeats at all before it suspects a worker.
        ("PROBE_SECONDS", "HEARTBEATS_LOST_SECONDS", 2),
        ("HEARTBEATS_LOST_SECONDS", "SUSPECT_AFTER_SECONDS", 1),
        ("HEARTBEATS_LOST_SECONDS", "MIN_DEAD_AFTER_SECONDS", 1),
        ("HEARTBEATS_LOST_SECONDS", "READY_WITHIN_SECONDS", 1),
        # A working leader renews its lease in time; a disconnected one steps down before its lease ends.
        ("RENEW_SECONDS", "LEADER_LEASE_SECONDS", 3),
        ("BROKER_LOST_SECONDS", "LEADER_LEASE_SECONDS", 1),
        ("RENEW_SECONDS", "BROKER_LOST_SECONDS", 2),
        ("STAND_BY_SECONDS", "LEADER_LEASE_SECONDS", 1),
        # A process that waits for a queue waits until the broker knows that its consumer is dead.
        ("AMQP_HEARTBEAT_SECONDS", "CONNECTION_DEAD_SECONDS", 3),
        ("CONNECTION_DEAD_SECONDS", "TAKE_OVER_SECONDS", 1),
        ("DRIVER_HEARTBEAT_SECONDS", "AMQP_HEARTBEAT_SECONDS", 2),
        ("TAKE_OVER_SECONDS", "WORKER_QUEUE_EXPIRES_SECONDS", 2),
        ("CONSUME_FIRST_RETRY_SECONDS", "CONSUME_LAST_RETRY_SECONDS", 2),
        ("REPORT_FIRST_RETRY_SECONDS", "REPORT_LAST_RETRY_SECONDS", 2),
        ("RETRY_DELAY_SECONDS", "RETRY_MAX_DELAY_SECONDS", 2),
        ("RETRY_MAX_DELAY_SECONDS", "MAX_RETRY_MAX_DELAY_SECONDS", 1),
        ("LOOKAHEAD_SECONDS", "RECALL_AFTER_SECONDS", 1),
        ("RECALL_AFTER_SECONDS", "RECALL_RETRY_SECONDS", 1),
        ("GROUP_COMMIT_WAIT_SECONDS", "GROUP_COMMIT_ABSENT_SECONDS", 1),
        ("FAST_LEAVE_SECONDS", "LEAVE_SECONDS", 1),
        ("MIN_CONNECT_SECONDS", "CONNECT_SECONDS", 1),
        ("CONNECT_SECONDS", "START_TIMEOUT_SECONDS", 1),
        ("API_SECONDS", "API_LONG_SECONDS", 1),
    ],
)
def test_a_duration_is_longer_than_the_durations_that_must_fit_into_it(
    durations: Mapping[str, float], shorter: str, longer: str, factor: float
) -> None:
    assert durations[shorter] * factor <= durations[longer]
    assert durations[shorter] < durations[longer]


def test_a_failed_publish_does_not_make_a_worker_suspect() -> None:
    assert timings.HEARTBEAT_SECONDS + timings.RPC_SECONDS <= timings.SUSPECT_AFTER_SECONDS
    assert timings.RPC_SECONDS < timings.CONNECTION_DEAD_SECONDS


def test_a_cli_command_waits_longer_than_the_manager_waits_for_one_decision() -> None:
    assert timings.DECISION_SECONDS < timings.API_LONG_SECONDS


def test_a_scale_shortens_waits_of_the_protocol_and_no_limit_of_real_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, fifth = durations_at_scale("1", monkeypatch), durations_at_scale("0.2", monkeypatch)
    assert real == {name: getattr(timings, name) for name in NAMES}
    scaled = {name for name in NAMES if fifth[name] != real[name]}
    assert {name: fifth[name] for name in scaled} == pytest.approx(
        {name: real[name] / 5 for name in scaled}
    )
    assert {"DEAD_AFTER_SECONDS", "LEADER_LEASE_SECONDS", "HEARTBEAT_TTL_SECONDS"} < scaled
    work = {"RPC_SECONDS", "CONNECT_SECONDS", "GRACE_SECONDS", "DATABASE_COMMAND_SECONDS"}
    assert not scaled & work


@pytest.mark.parametrize("scale", ["0.01", "0.5", "3"])
def test_amqp_heartbeats_are_whole_seconds_at_any_scale(
    scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = durations_at_scale(scale, monkeypatch)["AMQP_HEARTBEAT_SECONDS"]
    assert isinstance(heartbeat, int)
    assert heartbeat >= 1


@pytest.mark.parametrize("scale", ["", "fast", "0", "-1", "nan", "inf"])
def test_an_invalid_scale_ends_the_process_with_one_line(scale: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", "from skillq import timings"],
        env={VARIABLE: scale, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr == f"{VARIABLE}: {scale!r} is no positive number; it is for tests only\n"
