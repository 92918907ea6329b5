"""A broker that goes away in the middle of a run and comes back."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from skillq import timings, topology
from tests.broker import Broker
from tests.e2e.conftest import lay_out
from tests.e2e.processes import SECONDS, Process, System, answer, begun, executions, until
from tests.e2e.proxy import Proxy
from tests.e2e.wreck import Wreck
from tests.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(180)]


@pytest.fixture
def system(restartable: Broker, tmp_path: Path, time_scale: float) -> Iterator[System]:
    lay_out(tmp_path)
    with restartable.vhost() as url, System(url, tmp_path, time_scale) as system:
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
    assert not manager.logged("message_unreadable")


def submit(system: System, count: int, seconds: float = 0.3) -> None:
    tasks = [
        {"id": n, "difficulty": 1, "type": "work", "payload": {"seconds": seconds}}
        for n in range(count)
    ]
    system.skillq("submit", system.write("run.json", json.dumps({"tasks": tasks})))
    until(lambda: begun(system.here).total() >= 3, "the run is going on")


def all_done_once(system: System, manager: Process, count: int) -> None:
    until(lambda: manager.succeeded("default") == count, "all should succeed", 2 * SECONDS)
    assert begun(system.here) == {str(n): 1 for n in range(count)}
    assert not manager.logged("worker_changed", now="lost")


def test_connections_that_are_cut_again_and_again_cost_nothing(system: System) -> None:
    with Proxy(system.broker_url) as to_manager, Proxy(system.broker_url) as to_worker:
        manager = system.manager(broker_url=to_manager.url)
        worker = system.worker("one", 5, "my_tasks:handlers", broker_url=to_worker.url)
        submit(system, 30)
        for proxy in (to_manager, to_worker) * 3:
            before = begun(system.here).total()
            proxy.cut()
            until(lambda before=before: begun(system.here).total() > before, "it goes on")  # type: ignore[misc]
        all_done_once(system, manager, 30)
        assert not worker.is_over


def test_half_open_connections_are_noticed_and_nobody_is_taken_for_dead(system: System) -> None:
    with Proxy(system.broker_url) as to_manager, Proxy(system.broker_url) as to_worker:
        manager = system.manager(broker_url=to_manager.url)
        worker = system.worker("one", 5, "my_tasks:handlers", broker_url=to_worker.url)
        submit(system, 20)
        for proxy in (to_manager, to_worker):
            proxy.swallow()
        manager.says("heartbeats_lost")
        worker.says("fenced")
        for proxy in (to_manager, to_worker):
            proxy.heal()
        manager.says("heartbeats_recovered")
        worker.says("lease_renewed")
        all_done_once(system, manager, 20)


def test_while_the_broker_is_frozen_everyone_waits_and_then_goes_on(
    system: System, restartable: Broker
) -> None:
    manager = system.manager()
    system.worker("one", 5, "my_tasks:handlers")
    submit(system, 20)
    wreck = Wreck(restartable)
    wreck.freeze()
    try:
        manager.says("heartbeats_lost")
    finally:
        wreck.thaw()
    manager.says("heartbeats_recovered")
    all_done_once(system, manager, 20)


def test_while_the_broker_is_short_of_memory_nobody_is_taken_for_dead(
    system: System, restartable: Broker, time_scale: float
) -> None:
    dead_after = timings.DEAD_AFTER_SECONDS * time_scale
    manager = system.manager()
    worker = system.worker("one", 5, "my_tasks:handlers")
    submit(system, 20)
    wreck = Wreck(restartable)
    wreck.alarm(on=True)
    try:
        manager.says("heartbeats_lost")
        worker.says("fenced")
        silence = worker.logged("fenced")[0]["silence"]
        assert silence < dead_after, "it begins nothing more before others may get what it has"
        time.sleep(1.1 * dead_after - silence)  # it has been silent for longer than the dead are
    finally:
        wreck.alarm(on=False)
    manager.says("heartbeats_recovered")
    all_done_once(system, manager, 20)


def test_a_queue_that_somebody_deletes_is_made_anew(system: System, restartable: Broker) -> None:
    manager = system.manager()
    system.worker("one", 5, "my_tasks:handlers").says("connected")
    vhost = urlsplit(system.broker_url).path[1:]
    for queue in (topology.MANAGER_SUBMISSIONS, topology.MANAGER_HEARTBEATS):
        restartable.ask("DELETE", f"/queues/{vhost}/{queue}")
    client = system.submit(
        system.write(
            "run.json", json.dumps({"tasks": [{"id": 0, "difficulty": 1, "type": "work"}]})
        )
    )
    assert answer(client)["counts"] == {"succeeded": 1}
    assert not manager.is_over


@pytest.mark.parametrize("store", ["sqlite:///skillq.db", "memory://"])
def test_a_run_goes_on_to_its_end_when_the_broker_comes_back_empty(
    system: System, restartable: Broker, store: str
) -> None:
    manager = system.manager(store_url=store, stop_when_done=True)
    worker = system.worker("one", 5, "my_tasks:handlers")
    tasks = [
        {"id": n, "difficulty": 1, "type": "work", "payload": {"seconds": 0.3}} for n in range(20)
    ]
    client = system.submit(system.write("run.json", json.dumps({"tasks": tasks})))
    until(lambda: begun(system.here).total() >= 3, "the run is going on")
    restartable.empty(system.broker_url)
    assert answer(client)["counts"] == {"succeeded": 20}
    assert manager.ends() == 0
    assert worker.ends() == 0
    # Twice what was begun when nobody could be told: its assignment was lost, for all that the manager knows.
    assert begun(system.here).keys() == {str(n) for n in range(20)}
    assert begun(system.here).total() <= 22
    assert len(manager.logged("connection_lost")) == 1


def test_idle_services_get_everything_back_that_an_empty_broker_has_lost(
    system: System, restartable: Broker
) -> None:
    manager = system.manager()
    [port] = free_ports(1)
    system.worker("one", health_port=port).says("connected")
    until(lambda: is_ready(port), "the worker should be ready")
    restartable.empty(system.broker_url)
    until(lambda: not is_ready(port), "the worker should have lost its queue")
    until(lambda: is_ready(port), "the worker should have its queue again")
    client = system.submit(system.write("run.json", '{"tasks": [{"id": 0, "difficulty": 1}]}'))
    assert answer(client)["counts"] == {"succeeded": 1}
    assert not manager.logged("worker_changed", now="lost")


def is_ready(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        line.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        return b" 200 " in line.recv(100)


def test_who_was_frozen_until_another_took_over_leaves_with_one_line(system: System) -> None:
    old = system.manager(store_url="memory://", log_level="info")
    hung = system.worker("Ada", 5, "my_tasks:handlers")
    submit(system, 100, seconds=0.2)
    for process in (old, hung):
        process.signal(signal.SIGSTOP)
    heir = system.manager(store_url="memory://")
    namesake = system.worker("Ada", 5, "my_tasks:handlers")
    heir.says("leading")
    namesake.says("connected")
    for process in (old, hung):
        process.signal(signal.SIGCONT)
    for n in range(4):  # none of them may go to a manager that will not do it
        tasks = json.dumps({"tasks": [{"id": f"a{n}", "difficulty": 1, "type": "work"}]})
        client = system.submit(system.write("more.json", tasks))
        assert answer(client)["counts"] == {"succeeded": n + 1}
    assert (old.ends(2 * SECONDS), hung.ends(2 * SECONDS)) == (2, 2)
    [line] = [one for one in old.err.splitlines() if not one.startswith("{")]
    assert "another manager consumes skillq.manager.heartbeats" in line
    [line] = [one for one in hung.err.splitlines() if not one.startswith("{")]
    assert line.endswith("a worker named 'Ada' is connected already; choose another --name")
    assert len(old.logged("submission_accepted")) == 1, "it decides nothing any more"
    assert not heir.is_over
    assert not namesake.is_over


def test_a_queue_of_another_release_ends_a_manager_with_one_line_that_names_it(
    system: System, restartable: Broker
) -> None:
    vhost = urlsplit(system.broker_url).path[1:]
    path = f"/queues/{vhost}/{topology.MANAGER_REPORTS}"
    restartable.ask("PUT", path, {"durable": True, "arguments": {"x-queue-type": "classic"}})
    manager = system.manager(log_level="error")
    assert manager.ends() == 2
    assert manager.err.count("\n") == 1
    assert f"queue {topology.MANAGER_REPORTS} exists with other arguments" in manager.err
    assert "delete it, or declare it as it is" in manager.err


def test_a_queue_that_comes_back_otherwise_ends_a_manager_that_was_serving(
    system: System, restartable: Broker
) -> None:
    manager = system.manager()
    manager.says("leading")
    vhost = urlsplit(system.broker_url).path[1:]
    path = f"/queues/{vhost}/{topology.MANAGER_REPORTS}"
    restartable.ask("DELETE", path)
    restartable.ask("PUT", path, {"durable": True, "arguments": {"x-queue-type": "classic"}})
    assert manager.ends() == 2
    assert f"queue {topology.MANAGER_REPORTS} exists with other arguments" in manager.err
