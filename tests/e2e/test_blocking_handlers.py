"""Handlers that block their event loop do not stop heartbeats; handlers that keep the GIL do.

A handler that keeps the GIL (Python's global lock) needs its own process.
"""

import json

import pytest

from skillq import timings
from tests.e2e.processes import System, real_durations
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(150)]

MY_TASKS = """
import time
from skillq_worker import Handlers

handlers = Handlers()


@handlers.task
async def block(seconds: float) -> str:
    time.sleep(seconds)
    return "at last"


def keep_gil() -> int:
    return sum(range(200_000_000))  # one call in C that takes some seconds


handlers.task("in_worker")(keep_gil)
handlers.task("in_process", process=True)(keep_gil)
"""


def test_heartbeats_continue_while_a_handler_blocks_its_loop_for_twice_the_lease(
    system: System, time_scale: float
) -> None:
    (system.folder / "blocking.py").write_text(MY_TASKS)
    manager = system.start_manager()
    system.start_worker("one", 5, "blocking:handlers").wait_for_log("connected")
    seconds = 2 * timings.DEAD_AFTER_SECONDS * time_scale
    task = {"id": "slow", "type": "block", "difficulty": 1, "payload": {"seconds": seconds}}
    system.start_cli("submit", system.write_file("t.json", json.dumps({"tasks": [task]})))
    until(lambda: manager.succeeded_count("default") == 1, "it should succeed", 120)
    (attempt,) = manager.get_json("/api/tasks/default/slow")["attempts"]
    assert attempt["outcome"] == "succeeded"
    changes = [entry["now"] for entry in manager.logged("worker_changed")]
    assert not {"suspect", "lost"} & set(changes)


@real_durations
@pytest.mark.parametrize(("task_type", "is_stalled"), [("in_worker", True), ("in_process", False)])
def test_a_handler_that_keeps_the_gil_stalls_its_worker_unless_it_has_its_own_process(
    system: System, task_type: str, is_stalled: bool
) -> None:
    (system.folder / "blocking.py").write_text(MY_TASKS)
    manager = system.start_manager()
    worker = system.start_worker("one", 5, "blocking:handlers", heartbeat=0.5)
    worker.wait_for_log("connected")
    task = {"id": "slow", "type": task_type, "difficulty": 1}
    system.start_cli("submit", system.write_file("t.json", json.dumps({"tasks": [task]})))
    until(lambda: manager.succeeded_count("default") == 1, "it should succeed", 60)
    if is_stalled:
        worker.wait_for_log("process_stalled")
        assert (
            "register that one with process=True" in worker.logged("process_stalled")[0]["reason"]
        )
    else:
        assert not worker.logged("process_stalled")
