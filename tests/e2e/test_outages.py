"""A broker that goes away in the middle of a run and comes back."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import Broker
from tests.e2e.conftest import lay_out
from tests.e2e.processes import System, answer, executions, until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(180)]


@pytest.fixture
def system(restartable: Broker, tmp_path: Path) -> Iterator[System]:
    lay_out(tmp_path)
    with restartable.vhost() as url, System(url, tmp_path) as system:
        yield system


def test_a_run_goes_on_to_its_end_when_the_broker_is_restarted_in_the_middle_of_it(
    system: System, restartable: Broker
) -> None:
    manager = system.manager(stop_when_done=True)
    workers = [system.worker(f"w{n}", 5, "my_tasks:handlers") for n in range(2)]
    tasks = [
        {"id": n, "difficulty": 1, "type": "work", "payload": {"seconds": 0.5}} for n in range(30)
    ]
    client = system.submit(system.write("run.json", json.dumps({"tasks": tasks})))
    until(lambda: len(list(executions(system.here))) >= 4, "the run is going on")
    restartable.restart()
    assert answer(client)["counts"] == {"succeeded": 30}
    ended = {name.partition(".")[0] for name in executions(system.here) if "ended" in name}
    assert ended == {f"ended-{n}" for n in range(30)}
    assert manager.ends() == 0
    assert [worker.ends() for worker in workers] == [0, 0]
    assert not manager.logged("message_parked")
