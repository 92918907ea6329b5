"""Workers come and go while work goes on, over RabbitMQ and with real processes."""

import signal

import pytest

from tests.e2e.processes import System, answer, begun, executions, tasks, until

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]


def test_workers_may_join_and_leave_in_the_middle_of_a_run(system: System) -> None:
    manager = system.manager()
    first = system.worker("first", 5, "my_tasks:handlers")
    client = system.submit(
        system.write("run.json", tasks(30, type="work", payload={"seconds": 0.1}))
    )
    until(lambda: begun(system.here).total() >= 2, "the first worker begins")
    second = system.worker("second", 5, "my_tasks:handlers", slots=2)
    second.says("attempt_ended", 2)
    first.signal(signal.SIGTERM)
    assert first.ends() == 0
    done = answer(client)
    assert done["counts"] == {"succeeded": 30}
    assert set(begun(system.here).values()) == {1}
    assert {t["worker"] for t in done["tasks"]} == {"first", "second"}
    assert manager.logged("worker_changed", worker="first", now="disconnected")


def test_a_worker_told_to_leave_finishes_what_it_does_first(system: System) -> None:
    system.manager()
    leaving = system.worker("leaving", 5, "my_tasks:handlers")
    client = system.submit(system.write("one.json", tasks(2, type="work", payload={"seconds": 1})))
    until(lambda: begun(system.here), "it begins")
    leaving.signal(signal.SIGTERM)
    assert leaving.ends() == 0
    assert begun(system.here).total() == 1
    heir = system.worker("heir", 5, "my_tasks:handlers")
    done = answer(client)
    assert {t["worker"] for t in done["tasks"]} == {"leaving", "heir"}
    assert begun(system.here) == {"0": 1, "1": 1}
    assert heir.logged("attempt_ended")


def test_a_worker_that_outlasts_its_grace_hands_its_task_back(system: System) -> None:
    system.manager()
    slow = system.worker("slow", 5, "my_tasks:handlers", grace=0.1)
    client = system.submit(system.write("once.json", tasks(1, type="once")))
    slow.says("attempt_started")
    slow.signal(signal.SIGTERM)
    assert slow.ends() == 0
    system.worker("heir", 5, "my_tasks:handlers")
    (task,) = answer(client)["tasks"]
    assert (task["status"], task["worker"]) == ("succeeded", "heir")


def test_a_second_signal_ends_a_worker_at_once(system: System) -> None:
    system.manager()
    stubborn = system.worker("stubborn", 5, "my_tasks:handlers")
    system.submit(system.write("long.json", tasks(1, type="work", payload={"seconds": 600})))
    stubborn.says("attempt_started")
    stubborn.signal(signal.SIGTERM)
    stubborn.says("draining")
    stubborn.signal(signal.SIGTERM)
    assert stubborn.ends(10) == 0


def test_the_task_of_a_worker_that_was_killed_is_done_by_its_next_start_or_by_another(
    system: System,
) -> None:
    manager = system.manager()
    victim = system.worker("victim", 5, "my_tasks:handlers")
    client = system.submit(system.write("once.json", tasks(1, type="once")))
    until(lambda: list(executions(system.here)), "the handler begins")  # a little after the attempt
    victim.kill()
    system.worker("victim", 5, "my_tasks:handlers")  # the same name, another incarnation
    (task,) = answer(client)["tasks"]
    assert (task["status"], task["worker"]) == ("succeeded", "victim")
    assert manager.logged("task_ended", outcome="lost")
    assert len(list(executions(system.here))) == 2


def test_the_second_worker_of_a_name_waits_and_takes_over(system: System) -> None:
    system.manager()
    first = system.worker("twin", 5)
    first.says("connected")
    second = system.worker("Twin", 5)
    second.says("waiting_for_queue")
    first.signal(signal.SIGTERM)
    assert first.ends() == 0
    second.says("connected")
