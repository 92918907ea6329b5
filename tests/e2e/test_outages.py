"""Services survive outages of the broker in the middle of a run."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from skillq import timings, topology
from tests.e2e.broker_faults import BrokerFaults
from tests.e2e.conftest import prepare_folder
from tests.e2e.processes import Process, System, execution_files, start_counts, wait_for_result
from tests.e2e.proxy import Proxy
from tests.support.broker import Broker
from tests.support.ports import free_ports
from tests.support.waiting import WAIT_SECONDS, until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(180)]


@pytest.fixture
def system(restartable: Broker, tmp_path: Path, time_scale: float) -> Iterator[System]:
    prepare_folder(tmp_path)
    with restartable.vhost() as url, System(url, tmp_path, time_scale) as system:
        yield system


def test_a_run_completes_though_the_broker_is_restarted_in_the_middle_of_it(
    system: System, restartable: Broker
) -> None:
    manager = system.start_manager(stop_when_done=True)
    workers = [system.start_worker(f"w{n}", 5, "my_tasks:handlers") for n in range(2)]
    tasks = [
        {"id": n, "difficulty": 1, "type": "work", "payload": {"seconds": 0.5}} for n in range(30)
    ]
    client = system.start_watching_submit(
        system.write_file("run.json", json.dumps({"tasks": tasks}))
    )
    until(lambda: len(list(execution_files(system.folder))) >= 4, "the run should be going on")
    restartable.restart()
    assert wait_for_result(client)["counts"] == {"succeeded": 30}
    ended = {name.partition(".")[0] for name in execution_files(system.folder) if "ended" in name}
    assert ended == {f"ended-{n}" for n in range(30)}
    assert manager.wait_for_exit() == 0
    assert [worker.wait_for_exit() for worker in workers] == [0, 0]
    assert not manager.logged("message_unreadable")


def submit(system: System, count: int, seconds: float = 0.3) -> None:
    tasks = [
        {"id": n, "difficulty": 1, "type": "work", "payload": {"seconds": seconds}}
        for n in range(count)
    ]
    system.start_cli("submit", system.write_file("run.json", json.dumps({"tasks": tasks})))
    until(lambda: start_counts(system.folder).total() >= 3, "the run should be going on")


def assert_all_done_once(system: System, manager: Process, count: int) -> None:
    until(
        lambda: manager.succeeded_count("default") == count, "all should succeed", 2 * WAIT_SECONDS
    )
    assert start_counts(system.folder) == {str(n): 1 for n in range(count)}
    assert not manager.logged("worker_changed", now="lost")


def test_connections_that_are_cut_repeatedly_cost_no_attempt(system: System) -> None:
    with Proxy(system.broker_url) as to_manager, Proxy(system.broker_url) as to_worker:
        manager = system.start_manager(broker_url=to_manager.url)
        worker = system.start_worker("one", 5, "my_tasks:handlers", broker_url=to_worker.url)
        submit(system, 30)
        for proxy in (to_manager, to_worker) * 3:
            before = start_counts(system.folder).total()
            proxy.cut()
            until(
                lambda n=before: start_counts(system.folder).total() > n,  # type: ignore[misc]
                "the run should go on",
            )
        assert_all_done_once(system, manager, 30)
        assert not worker.has_exited


def test_half_open_connections_are_noticed_and_no_worker_is_lost(system: System) -> None:
    with Proxy(system.broker_url) as to_manager, Proxy(system.broker_url) as to_worker:
        manager = system.start_manager(broker_url=to_manager.url)
        worker = system.start_worker("one", 5, "my_tasks:handlers", broker_url=to_worker.url)
        submit(system, 20)
        for proxy in (to_manager, to_worker):
            proxy.make_half_open()
        manager.wait_for_log("heartbeats_lost")
        worker.wait_for_log("fenced")
        for proxy in (to_manager, to_worker):
            proxy.heal()
        manager.wait_for_log("heartbeats_recovered")
        worker.wait_for_log("lease_renewed")
        assert_all_done_once(system, manager, 20)


def test_a_run_continues_after_the_broker_was_frozen_and_no_worker_is_lost(
    system: System, restartable: Broker
) -> None:
    manager = system.start_manager()
    system.start_worker("one", 5, "my_tasks:handlers")
    submit(system, 20)
    broker_faults = BrokerFaults(restartable)
    broker_faults.freeze()
    try:
        manager.wait_for_log("heartbeats_lost")
    finally:
        broker_faults.thaw()
    manager.wait_for_log("heartbeats_recovered")
    assert_all_done_once(system, manager, 20)


def test_no_worker_is_lost_while_the_broker_is_short_of_memory(
    system: System, restartable: Broker, time_scale: float
) -> None:
    dead_after = timings.DEAD_AFTER_SECONDS * time_scale
    manager = system.start_manager()
    worker = system.start_worker("one", 5, "my_tasks:handlers")
    submit(system, 20)
    broker_faults = BrokerFaults(restartable)
    broker_faults.alarm(on=True)
    try:
        manager.wait_for_log("heartbeats_lost")
        worker.wait_for_log("fenced")
        silence = worker.logged("fenced")[0]["silence"]
        assert silence < dead_after, (
            "the worker should start nothing more before others may get its tasks"
        )
        time.sleep(1.1 * dead_after - silence)  # the silence is now longer than the lease
    finally:
        broker_faults.alarm(on=False)
    manager.wait_for_log("heartbeats_recovered")
    assert_all_done_once(system, manager, 20)


def test_a_deleted_queue_of_the_manager_is_declared_again(
    system: System, restartable: Broker
) -> None:
    manager = system.start_manager()
    system.start_worker("one", 5, "my_tasks:handlers").wait_for_log("connected")
    vhost = urlsplit(system.broker_url).path[1:]
    for queue in (topology.MANAGER_SUBMISSIONS, topology.MANAGER_HEARTBEATS):
        restartable.request("DELETE", f"/queues/{vhost}/{queue}")
    client = system.start_watching_submit(
        system.write_file(
            "run.json", json.dumps({"tasks": [{"id": 0, "difficulty": 1, "type": "work"}]})
        )
    )
    assert wait_for_result(client)["counts"] == {"succeeded": 1}
    assert not manager.has_exited


@pytest.mark.parametrize("store", ["sqlite:///skillq.db", "memory://"])
def test_a_run_completes_though_the_broker_comes_back_empty(
    system: System, restartable: Broker, store: str
) -> None:
    manager = system.start_manager(store_url=store, stop_when_done=True)
    worker = system.start_worker("one", 5, "my_tasks:handlers")
    tasks = [
        {"id": n, "difficulty": 1, "type": "work", "payload": {"seconds": 0.3}} for n in range(20)
    ]
    client = system.start_watching_submit(
        system.write_file("run.json", json.dumps({"tasks": tasks}))
    )
    until(lambda: start_counts(system.folder).total() >= 3, "the run should be going on")
    restartable.recreate_vhost(system.broker_url)
    assert wait_for_result(client)["counts"] == {"succeeded": 20}
    assert manager.wait_for_exit() == 0
    assert worker.wait_for_exit() == 0
    # An attempt runs twice if its start was lost with the broker: for the manager, its assignment was lost.
    assert start_counts(system.folder).keys() == {str(n) for n in range(20)}
    assert start_counts(system.folder).total() <= 22
    assert len(manager.logged("connection_lost")) == 1


def test_idle_services_declare_again_all_that_an_empty_broker_has_lost(
    system: System, restartable: Broker
) -> None:
    manager = system.start_manager()
    [port] = free_ports(1)
    system.start_worker("one", health_port=port).wait_for_log("connected")
    until(lambda: is_ready(port), "the worker should be ready")
    restartable.recreate_vhost(system.broker_url)
    until(lambda: not is_ready(port), "the worker should have lost its queue")
    until(lambda: is_ready(port), "the worker should have its queue again")
    client = system.start_watching_submit(
        system.write_file("run.json", '{"tasks": [{"id": 0, "difficulty": 1}]}')
    )
    assert wait_for_result(client)["counts"] == {"succeeded": 1}
    assert not manager.logged("worker_changed", now="lost")


def is_ready(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        return b" 200 " in connection.recv(100)


def test_a_service_that_was_frozen_until_another_replaced_it_exits_with_one_line(
    system: System,
) -> None:
    old_manager = system.start_manager(store_url="memory://", log_level="info")
    old_worker = system.start_worker("Ada", 5, "my_tasks:handlers")
    submit(system, 100, seconds=0.2)
    for process in (old_manager, old_worker):
        process.signal(signal.SIGSTOP)
    new_manager = system.start_manager(store_url="memory://")
    new_worker = system.start_worker("Ada", 5, "my_tasks:handlers")
    new_manager.wait_for_log("leading")
    new_worker.wait_for_log("connected")
    for process in (old_manager, old_worker):
        process.signal(signal.SIGCONT)
    for n in range(4):  # none of them may go to the old manager, which assigns nothing
        tasks = json.dumps({"tasks": [{"id": f"a{n}", "difficulty": 1, "type": "work"}]})
        client = system.start_watching_submit(system.write_file("more.json", tasks))
        assert wait_for_result(client)["counts"] == {"succeeded": n + 1}
    assert (
        old_manager.wait_for_exit(2 * WAIT_SECONDS),
        old_worker.wait_for_exit(2 * WAIT_SECONDS),
    ) == (2, 2)
    [line] = [one for one in old_manager.err.splitlines() if not one.startswith("{")]
    assert "another manager consumes skillq.manager.heartbeats" in line
    [line] = [one for one in old_worker.err.splitlines() if not one.startswith("{")]
    assert line.endswith("a worker named 'Ada' is connected already; choose another --name")
    assert len(old_manager.logged("submission_accepted")) == 1, (
        "the old manager should decide nothing any more"
    )
    assert not new_manager.has_exited
    assert not new_worker.has_exited


def test_a_manager_exits_with_one_line_if_its_queue_has_other_arguments(
    system: System, restartable: Broker
) -> None:
    vhost = urlsplit(system.broker_url).path[1:]
    path = f"/queues/{vhost}/{topology.MANAGER_REPORTS}"
    restartable.request("PUT", path, {"durable": True, "arguments": {"x-queue-type": "classic"}})
    manager = system.start_manager(log_level="error")
    assert manager.wait_for_exit() == 2
    assert manager.err.count("\n") == 1
    assert f"queue {topology.MANAGER_REPORTS} exists with other arguments" in manager.err
    assert "delete it, or declare it as it is" in manager.err


def test_a_serving_manager_exits_if_its_queue_comes_back_with_other_arguments(
    system: System, restartable: Broker
) -> None:
    manager = system.start_manager()
    manager.wait_for_log("leading")
    vhost = urlsplit(system.broker_url).path[1:]
    path = f"/queues/{vhost}/{topology.MANAGER_REPORTS}"
    restartable.request("DELETE", path)
    restartable.request("PUT", path, {"durable": True, "arguments": {"x-queue-type": "classic"}})
    assert manager.wait_for_exit() == 2
    assert f"queue {topology.MANAGER_REPORTS} exists with other arguments" in manager.err
