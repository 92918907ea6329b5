"""Workers connect and leave during a run, over RabbitMQ and as real processes."""

import signal

import pytest

from tests.e2e.processes import System, execution_files, start_counts, tasks_file, wait_for_result
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]


def test_workers_may_connect_and_leave_in_the_middle_of_a_run(system: System) -> None:
    manager = system.start_manager()
    first = system.start_worker("first", 5, "my_tasks:handlers")
    client = system.start_watching_submit(
        system.write_file("run.json", tasks_file(30, type="work", payload={"seconds": 0.1}))
    )
    until(lambda: start_counts(system.folder).total() >= 2, "the first worker should start")
    second = system.start_worker("second", 5, "my_tasks:handlers", slots=2)
    second.wait_for_log("attempt_ended", 2)
    first.signal(signal.SIGTERM)
    assert first.wait_for_exit() == 0
    done = wait_for_result(client)
    assert done["counts"] == {"succeeded": 30}
    assert set(start_counts(system.folder).values()) == {1}
    assert {t["worker"] for t in done["tasks"]} == {"first", "second"}
    assert manager.logged("worker_changed", worker="first", now="disconnected")


def test_a_worker_that_leaves_first_finishes_its_running_attempt(system: System) -> None:
    system.start_manager()
    leaving = system.start_worker("leaving", 5, "my_tasks:handlers")
    client = system.start_watching_submit(
        system.write_file("one.json", tasks_file(2, type="work", payload={"seconds": 1}))
    )
    until(lambda: start_counts(system.folder), "the task should start")
    leaving.signal(signal.SIGTERM)
    assert leaving.wait_for_exit() == 0
    assert start_counts(system.folder).total() == 1
    other = system.start_worker("other", 5, "my_tasks:handlers")
    done = wait_for_result(client)
    assert {t["worker"] for t in done["tasks"]} == {"leaving", "other"}
    assert start_counts(system.folder) == {"0": 1, "1": 1}
    assert other.logged("attempt_ended")


def test_a_worker_returns_an_attempt_that_runs_longer_than_the_grace(system: System) -> None:
    system.start_manager()
    slow = system.start_worker("slow", 5, "my_tasks:handlers", grace=0.1)
    client = system.start_watching_submit(
        system.write_file("once.json", tasks_file(1, type="once"))
    )
    slow.wait_for_log("attempt_started")
    slow.signal(signal.SIGTERM)
    assert slow.wait_for_exit() == 0
    system.start_worker("other", 5, "my_tasks:handlers")
    (task,) = wait_for_result(client)["tasks"]
    assert (task["status"], task["worker"]) == ("succeeded", "other")


def test_a_second_signal_ends_a_worker_at_once(system: System) -> None:
    system.start_manager()
    stubborn = system.start_worker("stubborn", 5, "my_tasks:handlers")
    system.start_watching_submit(
        system.write_file("long.json", tasks_file(1, type="work", payload={"seconds": 600}))
    )
    stubborn.wait_for_log("attempt_started")
    stubborn.signal(signal.SIGTERM)
    stubborn.wait_for_log("draining")
    stubborn.signal(signal.SIGTERM)
    assert stubborn.wait_for_exit(10) == 0


def test_the_task_of_a_killed_worker_is_run_by_its_next_start_or_by_another_worker(
    system: System,
) -> None:
    manager = system.start_manager()
    victim = system.start_worker("victim", 5, "my_tasks:handlers")
    client = system.start_watching_submit(
        system.write_file("once.json", tasks_file(1, type="once"))
    )
    until(
        lambda: list(execution_files(system.folder)), "the handler should start"
    )  # a little later than the attempt
    victim.kill()
    system.start_worker("victim", 5, "my_tasks:handlers")  # the same name, another incarnation
    (task,) = wait_for_result(client)["tasks"]
    assert (task["status"], task["worker"]) == ("succeeded", "victim")
    assert manager.logged("task_ended", outcome="lost")
    assert len(list(execution_files(system.folder))) == 2


def test_a_second_worker_of_the_same_name_connects_when_the_first_leaves(system: System) -> None:
    system.start_manager()
    first = system.start_worker("twin", 5)
    first.wait_for_log("connected")
    second = system.start_worker("Twin", 5)
    second.wait_for_log("waiting_for_queue")
    first.signal(signal.SIGTERM)
    assert first.wait_for_exit() == 0
    second.wait_for_log("connected")
