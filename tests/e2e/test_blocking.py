"""A handler that blocks the loop of all handlers for a minute, twice the lease, costs its worker nothing."""

import json

import pytest

from tests.e2e.processes import System, until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(150)]

MY_TASKS = """
import time
from skillq_worker import Handlers

handlers = Handlers()


@handlers.task
async def block() -> str:
    time.sleep(60)
    return "at last"
"""


def test_while_a_handler_blocks_its_loop_for_a_minute_heartbeats_go_on(system: System) -> None:
    (system.here / "blocking.py").write_text(MY_TASKS)
    manager = system.manager()
    system.worker("one", 5, "blocking:handlers").says("connected")
    task = {"id": "slow", "type": "block", "difficulty": 1}
    system.skillq("submit", system.write("t.json", json.dumps({"tasks": [task]})))
    until(lambda: manager.succeeded("default") == 1, "it should succeed", 120)
    (attempt,) = manager.ask("/api/tasks/default/slow")["attempts"]
    assert attempt["outcome"] == "succeeded"
    changes = [entry["now"] for entry in manager.logged("worker_changed")]
    assert not {"suspect", "lost"} & set(changes)
