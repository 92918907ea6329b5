"""Handlers that block: the loop of all handlers for twice the lease, which costs the worker nothing;
or all of Python, which stops its heartbeats, unless they have a process of their own.
"""

import json

import pytest

from skillq import timings
from tests.e2e.processes import System, real_durations, until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(150)]

MY_TASKS = """
import time
from skillq_worker import Handlers

handlers = Handlers()


@handlers.task
async def block(seconds: float) -> str:
    time.sleep(seconds)
    return "at last"


def keep_the_lock() -> int:
    return sum(range(200_000_000))  # one step for Python, and some seconds


handlers.task("here")(keep_the_lock)
handlers.task("apart", process=True)(keep_the_lock)
"""


def test_while_a_handler_blocks_its_loop_for_twice_the_lease_heartbeats_go_on(
    system: System, time_scale: float
) -> None:
    (system.here / "blocking.py").write_text(MY_TASKS)
    manager = system.manager()
    system.worker("one", 5, "blocking:handlers").says("connected")
    seconds = 2 * timings.DEAD_AFTER_SECONDS * time_scale
    task = {"id": "slow", "type": "block", "difficulty": 1, "payload": {"seconds": seconds}}
    system.skillq("submit", system.write("t.json", json.dumps({"tasks": [task]})))
    until(lambda: manager.succeeded("default") == 1, "it should succeed", 120)
    (attempt,) = manager.ask("/api/tasks/default/slow")["attempts"]
    assert attempt["outcome"] == "succeeded"
    changes = [entry["now"] for entry in manager.logged("worker_changed")]
    assert not {"suspect", "lost"} & set(changes)


@real_durations
@pytest.mark.parametrize(("task_type", "stands_still"), [("here", True), ("apart", False)])
def test_a_function_that_keeps_pythons_lock_stops_heartbeats_unless_it_has_a_process_and_that_is_said(
    system: System, task_type: str, stands_still: bool
) -> None:
    (system.here / "blocking.py").write_text(MY_TASKS)
    manager = system.manager()
    worker = system.worker("one", 5, "blocking:handlers", heartbeat=0.5)
    worker.says("connected")
    task = {"id": "slow", "type": task_type, "difficulty": 1}
    system.skillq("submit", system.write("t.json", json.dumps({"tasks": [task]})))
    until(lambda: manager.succeeded("default") == 1, "it should succeed", 60)
    if stands_still:
        worker.says("process_stalled")
        assert (
            "register that one with process=True" in worker.logged("process_stalled")[0]["reason"]
        )
    else:
        assert not worker.logged("process_stalled")
