"""Managers and workers stop on a signal, and the next manager continues their work."""

import json
import signal
import time
import urllib.error
from collections.abc import Sequence

import pytest

from tests.e2e.processes import Process, System, start_counts, wait_for_result
from tests.e2e.proxy import Proxy
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]


def write_tasks(system: System, count: int, **fields: object) -> str:
    tasks = [{"id": n, "difficulty": 1, "type": "work"} | fields for n in range(count)]
    return system.write_file("tasks.json", json.dumps({"tasks": tasks}))


def outcomes(manager: Process, id: str) -> list[tuple[str, str]]:
    attempts = manager.get_json(f"/api/tasks/default/{id}")["attempts"]
    return [(one["worker"], one["outcome"]) for one in attempts if one["counted"]]


def wait_for_successes(manager: Process, count: int, run: str = "default") -> None:
    until(lambda: manager.succeeded_count(run) == count, f"all {count} should succeed")


# --- workers


def test_a_worker_that_leaves_returns_what_it_has_not_started_and_no_failure_is_counted(
    system: System,
) -> None:
    manager = system.start_manager()
    # It must not be suspect before the task is submitted, however slow the machine is.
    lease = {"suspect_after": 120, "dead_after": 240}
    leaving = system.start_worker("leaving", 5, "my_tasks:handlers", **lease)
    leaving.wait_for_log("connected")
    # It reads the assignment and the second signal at the same time.
    leaving.signal(signal.SIGSTOP)
    system.start_watching_submit(write_tasks(system, 1))
    manager.wait_for_log("task_assigned")
    leaving.signal(signal.SIGTERM)
    leaving.signal(signal.SIGCONT)
    assert leaving.wait_for_exit() == 0
    system.start_worker("other", 5, "my_tasks:handlers")
    wait_for_successes(manager, 1)
    assert start_counts(system.folder) == {"0": 1}
    assert {outcome for _, outcome in outcomes(manager, "0")} <= {"succeeded", "returned"}


def test_an_attempt_that_runs_longer_than_the_grace_is_returned_and_not_failed(
    system: System,
) -> None:
    manager = system.start_manager()
    leaving = system.start_worker("leaving", 5, "my_tasks:handlers", grace=0.2)
    system.start_watching_submit(write_tasks(system, 1, type="once"))
    leaving.wait_for_log("attempt_started")
    began = time.monotonic()
    leaving.signal(signal.SIGTERM)
    assert leaving.wait_for_exit() == 0
    assert time.monotonic() - began < 5
    system.start_worker("other", 5, "my_tasks:handlers")
    wait_for_successes(manager, 1)
    assert outcomes(manager, "0") == [("leaving", "returned"), ("other", "succeeded")]


def test_a_second_signal_ends_a_worker_that_cannot_reach_the_broker(
    system: System, broker_url: str
) -> None:
    with Proxy(broker_url) as proxy:
        system.start_manager()
        stubborn = system.start_worker("stubborn", 5, "my_tasks:handlers", broker_url=proxy.url)
        system.start_watching_submit(write_tasks(system, 1, payload={"seconds": 600}))
        stubborn.wait_for_log("attempt_started")
        proxy.make_half_open()
        stubborn.signal(signal.SIGTERM)
        stubborn.wait_for_log("draining")
        stubborn.signal(signal.SIGTERM)
        assert stubborn.wait_for_exit(10) == 0


# --- managers


def test_a_manager_that_leaves_commits_its_round_and_the_rest_stays_with_the_broker(
    system: System,
) -> None:
    first = system.start_manager()
    first.wait_for_log("leading")
    system.start_worker("one", 5, "my_tasks:handlers", slots=4).wait_for_log("connected")
    clients = submit_runs(system, 5, 40)
    until(lambda: start_counts(system.folder).total() >= 3, "the work should be going on")
    first.signal(signal.SIGTERM)
    assert first.wait_for_exit() == 0
    second = system.start_manager()
    for n, client in enumerate(clients):
        assert wait_for_result(client)["counts"] == {"succeeded": 40}
        wait_for_successes(second, 40, f"run-{n}")
    assert set(start_counts(system.folder).values()) == {1}
    assert start_counts(system.folder).total() == 5 * 40


def submit_runs(system: System, runs: int, tasks: int) -> Sequence[Process]:
    clients = []
    for run in range(runs):
        items = [{"id": f"{run}-{n}", "difficulty": 1, "type": "work"} for n in range(tasks)]
        file = system.write_file(f"{run}.json", json.dumps({"tasks": items}))
        clients.append(system.start_watching_submit(file, "--run", f"run {run}"))
    return clients


def test_a_second_signal_ends_a_manager_that_cannot_reach_the_broker(
    system: System, broker_url: str
) -> None:
    with Proxy(broker_url) as proxy:
        manager = system.start_manager(broker_url=proxy.url)
        system.start_worker("one", 5).wait_for_log("connected")
        manager.wait_for_log("worker_changed")
        proxy.make_half_open()
        manager.signal(signal.SIGTERM)
        time.sleep(0.5)  # two signals at once would be one
        manager.signal(signal.SIGTERM)
        assert manager.wait_for_exit(2) == -signal.SIGTERM


def test_the_next_manager_restores_all_tasks_of_a_killed_manager_exactly(system: System) -> None:
    first = system.start_manager()
    system.start_cli("submit", write_tasks(system, 300))
    until(lambda: first.logged("submission_accepted"), "the submission should be accepted")
    worker = system.start_worker("one", 5, "my_tasks:handlers")
    until(lambda: start_counts(system.folder).total() >= 10, "the work should be going on")
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_exit() == 0
    until(
        lambda: first.logged("worker_changed", now="disconnected"),
        "the worker should be disconnected",
    )
    before = first.tasks("default")
    first.kill()
    second = system.start_manager()
    second.wait_for_log("leading")
    shown = ("id", "status", "attempt", "worker", "submitted_at", "output")
    assert [[task[k] for k in shown] for task in second.tasks("default")] == [
        [task[k] for k in shown] for task in before
    ]
    system.start_worker("two", 5, "my_tasks:handlers", slots=10)
    wait_for_successes(second, 300)
    assert start_counts(system.folder) == {str(n): 1 for n in range(300)}


def test_a_second_manager_on_the_same_file_exits_2_with_one_line(system: System) -> None:
    first = system.start_manager()
    first.wait_for_log("leading")
    second = system.start_manager(log_level="error")
    assert second.wait_for_exit() == 2
    assert second.err.count("\n") == 1
    assert second.err.startswith("skillq manager: another manager (pid ")
    assert "skillq.db; stop it, or name another file" in second.err
    assert not first.has_exited


def test_a_second_manager_on_the_same_broker_with_another_store_exits_2_with_one_line(
    system: System,
) -> None:
    first = system.start_manager()
    first.wait_for_log("leading")
    second = system.start_manager(store_url="sqlite:///other.db")
    second.wait_for_log("waiting_for_queue")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        second.get_json("/readyz")
    assert second.wait_for_exit(90) == 2
    assert second.err.splitlines()[-1] == (
        "skillq manager: another manager consumes skillq.manager.heartbeats on this broker; "
        "stop it, or use another vhost"
    )
    assert not second.logged("leading")
    system.start_worker("one", 5, "my_tasks:handlers")
    system.start_watching_submit(write_tasks(system, 3))
    wait_for_successes(first, 3)
