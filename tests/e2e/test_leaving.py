"""Managers and workers that are told to leave: in order, or now; and what a manager finds when it comes back."""

import json
import signal
import time
import urllib.error
from collections.abc import Sequence

import pytest

from tests.e2e.processes import Process, System, answer, begun, until
from tests.e2e.proxy import Proxy

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]


def write(system: System, count: int, **fields: object) -> str:
    tasks = [{"id": n, "difficulty": 1, "type": "work"} | fields for n in range(count)]
    return system.write("tasks.json", json.dumps({"tasks": tasks}))


def outcomes(manager: Process, id: str) -> list[tuple[str, str]]:
    attempts = manager.ask(f"/api/tasks/default/{id}")["attempts"]
    return [(one["worker"], one["outcome"]) for one in attempts if one["counted"]]


def ended(manager: Process, count: int, run: str = "default") -> None:
    until(lambda: manager.succeeded(run) == count, f"all {count} should succeed")


# --- workers


def test_a_worker_hands_back_what_it_never_started_and_no_attempt_is_held_against_the_task(
    system: System,
) -> None:
    manager = system.manager()
    leaving = system.worker("leaving", 5, "my_tasks:handlers")
    leaving.says("connected")
    leaving.signal(signal.SIGSTOP)  # what it is given and the order to leave come together
    system.submit(write(system, 1))
    manager.says("task_assigned")
    leaving.signal(signal.SIGTERM)
    leaving.signal(signal.SIGCONT)
    assert leaving.ends() == 0
    system.worker("heir", 5, "my_tasks:handlers")
    ended(manager, 1)
    assert begun(system.here) == {"0": 1}
    assert {outcome for _, outcome in outcomes(manager, "0")} <= {"succeeded", "returned"}


def test_what_runs_longer_than_the_grace_is_handed_back_and_is_no_failed_attempt(
    system: System,
) -> None:
    manager = system.manager()
    leaving = system.worker("leaving", 5, "my_tasks:handlers", grace=0.2)
    system.submit(write(system, 1, type="once"))
    leaving.says("attempt_started")
    began = time.monotonic()
    leaving.signal(signal.SIGTERM)
    assert leaving.ends() == 0
    assert time.monotonic() - began < 5
    system.worker("heir", 5, "my_tasks:handlers")
    ended(manager, 1)
    assert outcomes(manager, "0") == [("leaving", "returned"), ("heir", "succeeded")]


def test_a_second_signal_ends_a_worker_that_cannot_reach_the_broker(
    system: System, broker_url: str
) -> None:
    with Proxy(broker_url) as proxy:
        system.manager()
        stubborn = system.worker("stubborn", 5, "my_tasks:handlers", broker_url=proxy.url)
        system.submit(write(system, 1, payload={"seconds": 600}))
        stubborn.says("attempt_started")
        proxy.swallow()
        stubborn.signal(signal.SIGTERM)
        stubborn.says("draining")
        stubborn.signal(signal.SIGTERM)
        assert stubborn.ends(10) == 0


# --- managers


def test_a_manager_told_to_leave_commits_what_it_holds_and_leaves_the_rest_with_the_broker(
    system: System,
) -> None:
    first = system.manager()
    first.says("leading")
    system.worker("one", 5, "my_tasks:handlers", slots=4).says("connected")
    clients = submissions(system, 5, 40)
    until(lambda: begun(system.here).total() >= 3, "the work is going on")
    first.signal(signal.SIGTERM)
    assert first.ends() == 0
    second = system.manager()
    for n, client in enumerate(clients):
        assert answer(client)["counts"] == {"succeeded": 40}
        ended(second, 40, f"run-{n}")
    assert set(begun(system.here).values()) == {1}
    assert begun(system.here).total() == 5 * 40


def submissions(system: System, runs: int, tasks: int) -> Sequence[Process]:
    clients = []
    for run in range(runs):
        items = [{"id": f"{run}-{n}", "difficulty": 1, "type": "work"} for n in range(tasks)]
        file = system.write(f"{run}.json", json.dumps({"tasks": items}))
        clients.append(system.submit(file, "--run", f"run {run}"))
    return clients


def test_a_second_signal_ends_a_manager_that_cannot_reach_the_broker(
    system: System, broker_url: str
) -> None:
    with Proxy(broker_url) as proxy:
        manager = system.manager(broker_url=proxy.url)
        system.worker("one", 5).says("connected")
        manager.says("worker_changed")
        proxy.swallow()
        manager.signal(signal.SIGTERM)
        time.sleep(0.5)  # two at once are one
        manager.signal(signal.SIGTERM)
        assert manager.ends(2) == -signal.SIGTERM


def test_a_manager_that_was_killed_with_a_backlog_resumes_it_exactly(system: System) -> None:
    first = system.manager()
    system.skillq("submit", write(system, 300))
    until(lambda: first.logged("submission_accepted"), "they are taken in")
    worker = system.worker("one", 5, "my_tasks:handlers")
    until(lambda: begun(system.here).total() >= 10, "the work is going on")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0
    until(lambda: first.logged("worker_changed", now="disconnected"), "it is gone")
    before = first.tasks("default")
    first.kill()
    second = system.manager()
    second.says("leading")
    shown = ("id", "status", "attempt", "worker", "submitted_at", "output")
    assert [[task[k] for k in shown] for task in second.tasks("default")] == [
        [task[k] for k in shown] for task in before
    ]
    system.worker("two", 5, "my_tasks:handlers", slots=10)
    ended(second, 300)
    assert begun(system.here) == {str(n): 1 for n in range(300)}


def test_the_second_manager_of_a_file_says_so_and_exits_2(system: System) -> None:
    first = system.manager()
    first.says("leading")
    second = system.manager(log_level="error")
    assert second.ends() == 2
    assert second.err.count("\n") == 1
    assert second.err.startswith("skillq manager: another manager (pid ")
    assert "skillq.db; stop it, or name another file" in second.err
    assert not first.is_over


def test_the_second_manager_of_a_broker_with_another_store_says_so_and_exits_2(
    system: System,
) -> None:
    first = system.manager()
    first.says("leading")
    second = system.manager(store_url="sqlite:///other.db")
    second.says("waiting_for_queue")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        second.ask("/readyz")
    assert second.ends(90) == 2
    assert second.err.splitlines()[-1] == (
        "skillq manager: another manager consumes skillq.manager.heartbeats on this broker; "
        "stop it, or use another vhost"
    )
    assert not second.logged("leading")
    system.worker("one", 5, "my_tasks:handlers")
    system.submit(write(system, 3))
    ended(first, 3)
