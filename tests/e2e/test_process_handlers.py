"""Handlers that run in their own processes end when they are cancelled, late or without a worker."""

import json
import os
import signal
import urllib.request

import pytest

from tests.e2e.processes import Process, System
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]

MY_TASKS = """
import os
import signal
import time
from pathlib import Path

from skillq_worker import Context, Handlers

handlers = Handlers()


@handlers.task(process=True)
def hang(context: Context) -> None:
    Path(f"hangs.{context.id}.{context.attempt}.{os.getpid()}").touch()
    time.sleep(600)


@handlers.task(process=True)
def crash(context: Context) -> int:
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt
"""


def hanging_pids(system: System, id: str = "*", attempt: int = 1) -> list[int]:
    """Return the process ids of the handlers that hang."""
    return [int(path.name.split(".")[3]) for path in system.folder.glob(f"hangs.{id}.{attempt}.*")]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def are_gone(pids: list[int]) -> bool:
    return bool(pids) and all(map(is_gone, pids))


def submit_to_worker(
    system: System, *tasks: dict[str, object], **settings: object
) -> tuple[Process, Process]:
    """Start a manager and a worker, and submit these tasks."""
    (system.folder / "slow_tasks.py").write_text(MY_TASKS)
    manager = system.start_manager(retry_delay=0.1)
    worker = system.start_worker("one", 5, "slow_tasks:handlers", slots=4, **settings)
    worker.wait_for_log("connected")
    system.start_cli("submit", system.write_file("t.json", json.dumps({"tasks": tasks})))
    return manager, worker


def status(manager: Process, id: str) -> str:
    return str(manager.get_json(f"/api/tasks/default/{id}")["status"])


def test_a_cancelled_or_late_process_is_killed_and_a_dead_process_is_a_failed_attempt(
    system: System,
) -> None:
    manager, _ = submit_to_worker(
        system,
        {"id": "unwanted", "type": "hang", "difficulty": 1},
        {"id": "slow", "type": "hang", "difficulty": 1, "timeout": "5s"},
        {"id": "frail", "type": "crash", "difficulty": 1, "max_attempts": 2},
    )
    until(
        lambda: hanging_pids(system, "unwanted") and hanging_pids(system, "slow"),
        "both tasks should run",
    )
    port = manager.logged("http_serving")[-1]["port"]
    cancel = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/tasks/default/unwanted/cancel",
        b"{}",
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(cancel, timeout=10).close()
    until(lambda: are_gone(hanging_pids(system, "unwanted")), "the process should be killed")
    until(lambda: status(manager, "slow") == "timed_out", "the task should time out")
    until(lambda: are_gone(hanging_pids(system, "slow")), "the process should be killed")
    until(lambda: status(manager, "frail") == "succeeded", "the task should be retried")
    attempts = manager.get_json("/api/tasks/default/frail")["attempts"]
    assert [one["outcome"] for one in attempts] == ["failed", "succeeded"]
    assert attempts[0]["error"] == "its process was killed by signal 9 (Killed)"
    assert status(manager, "unwanted") == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_handler_process_outlives_a_worker_that_leaves_or_is_killed(
    system: System, number: signal.Signals
) -> None:
    _, worker = submit_to_worker(
        system,
        *({"id": id, "type": "hang", "difficulty": 1} for id in "ab"),
        grace=0.2,
    )
    until(lambda: len(hanging_pids(system)) == 2, "both tasks should run")
    worker.signal(number)
    assert worker.wait_for_exit() == (0 if number is signal.SIGTERM else -number)
    until(lambda: are_gone(hanging_pids(system)), "the processes should be gone", 10)
