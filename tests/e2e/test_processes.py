"""Handlers that run in processes, in real workers: called off, too slow, or killed, none goes on behind our back."""

import json
import os
import signal
import urllib.request

import pytest

from tests.e2e.processes import Process, System, until

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


def hanging(system: System, id: str = "*", attempt: int = 1) -> list[int]:
    """The processes of those that hang."""
    return [int(path.name.split(".")[3]) for path in system.here.glob(f"hangs.{id}.{attempt}.*")]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def are_gone(pids: list[int]) -> bool:
    return bool(pids) and all(map(is_gone, pids))


def begin(system: System, *tasks: dict[str, object], **worker: object) -> tuple[Process, Process]:
    """A manager and a worker that have these tasks."""
    (system.here / "slow_tasks.py").write_text(MY_TASKS)
    manager = system.manager(retry_delay=0.1)
    hand = system.worker("one", 5, "slow_tasks:handlers", slots=4, **worker)
    hand.says("connected")
    system.skillq("submit", system.write("t.json", json.dumps({"tasks": tasks})))
    return manager, hand


def status(manager: Process, id: str) -> str:
    return str(manager.ask(f"/api/tasks/default/{id}")["status"])


def test_what_is_called_off_or_too_slow_is_killed_and_a_process_that_dies_is_a_failed_attempt(
    system: System,
) -> None:
    manager, _ = begin(
        system,
        {"id": "unwanted", "type": "hang", "difficulty": 1},
        {"id": "slow", "type": "hang", "difficulty": 1, "timeout": "5s"},
        {"id": "frail", "type": "crash", "difficulty": 1, "max_attempts": 2},
    )
    until(lambda: hanging(system, "unwanted") and hanging(system, "slow"), "both run")
    port = manager.logged("http_serving")[-1]["port"]
    cancel = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/tasks/default/unwanted/cancel",
        b"{}",
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(cancel, timeout=10).close()
    until(lambda: are_gone(hanging(system, "unwanted")), "its process is killed")
    until(lambda: status(manager, "slow") == "timed_out", "it took too long")
    until(lambda: are_gone(hanging(system, "slow")), "its process is killed")
    until(lambda: status(manager, "frail") == "succeeded", "it is tried again")
    attempts = manager.ask("/api/tasks/default/frail")["attempts"]
    assert [one["outcome"] for one in attempts] == ["failed", "succeeded"]
    assert attempts[0]["error"] == "its process was killed by signal 9 (Killed)"
    assert status(manager, "unwanted") == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_when_its_worker_leaves_or_is_killed_no_process_goes_on(
    system: System, number: signal.Signals
) -> None:
    _, hand = begin(
        system,
        *({"id": id, "type": "hang", "difficulty": 1} for id in "ab"),
        grace=0.2,
    )
    until(lambda: len(hanging(system)) == 2, "both run")
    hand.signal(number)
    assert hand.ends() == (0 if number is signal.SIGTERM else -number)
    until(lambda: are_gone(hanging(system)), "their processes are gone", 10)
