"""Manager, workers and clients as separate processes that share only a broker's URL."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from urllib.parse import quote

import pytest

from skillq import topology
from skillq.transport import Outgoing
from skillq.transport.rabbitmq import RabbitTransport
from tests.e2e.processes import SUMMARY, TUTORIAL, System, start_counts, tasks_file, wait_for_result
from tests.support.broker import Broker

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]


# --- the tutorial ----------------------------------------------------------------------------


def test_the_tutorial_prints_its_summary_and_then_workers_and_manager_exit(
    system: System,
) -> None:
    manager = system.start_manager(expected_workers=3, stop_when_done=True)
    client = system.start_cli("submit", system.write_file("tutorial.yaml", TUTORIAL), "--watch")
    workers = system.start_tutorial_workers()
    assert client.wait_for_exit() == 0
    assert client.lines[-5:] == SUMMARY
    assert not client.err
    assert [worker.wait_for_exit() for worker in workers] == [0, 0, 0]
    assert manager.wait_for_exit() == 0
    assert manager.lines == SUMMARY
    assert all(worker.logged("stopped") for worker in [manager, *workers])


def test_the_manager_assigns_nothing_before_the_expected_workers_are_connected(
    system: System,
) -> None:
    manager = system.start_manager(expected_workers=2)
    senior = system.start_worker("Senior", 9)
    client = system.start_watching_submit(system.write_file("tutorial.yaml", TUTORIAL))
    manager.wait_for_log("submission_accepted")
    manager.wait_for_log("worker_changed", worker="Senior")
    assert not manager.logged("task_assigned")
    system.start_worker("Junior", 3)
    done = wait_for_result(client)
    assert {t["id"]: t["worker"] for t in done["tasks"]}["1"] == "Junior"
    assert senior.logged("attempt_ended")


FILE = """
run: Nightly batch
workers:
  - {name: Junior, skill: 3}
  - {name: Expert, skill: 5, specialties: [ocr]}
  - {name: Senior, skill: 9}
tasks:
  - {id: read, type: ocr, difficulty: 7, requires: [ocr]}
  - {id: easy, difficulty: 2, depends_on: [read]}
  - {id: hard, difficulty: 9, depends_on: [read], priority: 4}
  - {id: slow, difficulty: 9, timeout: 10ms, depends_on: [hard]}
  - {id: after, difficulty: 1, depends_on: [slow, easy]}
"""


def test_the_same_file_gives_the_same_outcome_embedded_and_over_rabbitmq(system: System) -> None:
    file = system.write_file("file.yaml", FILE)
    embedded = system.start_cli("run", file, "--json")
    system.start_manager(expected_workers=3)
    system.start_worker("Junior", 3)
    system.start_worker("Expert", 5, specialty="ocr")
    system.start_worker("Senior", 9)
    watched = wait_for_result(system.start_watching_submit(file), code=1)
    assert watched == wait_for_result(embedded, code=1)
    assert {t["id"]: (t["status"], t["worker"]) for t in watched["tasks"]} == {
        "read": ("succeeded", "Expert"),
        "easy": ("succeeded", "Junior"),
        "hard": ("succeeded", "Senior"),
        "slow": ("timed_out", "Senior"),
        "after": ("failed", None),
    }
    assert (watched["run"], watched["success_rate"]) == ("Nightly batch", 60.0)


def test_the_tutorial_of_failures_has_the_same_outcome_over_rabbitmq(system: System) -> None:
    file = system.write_file(
        "failures.yaml",
        "tasks: [{id: 3, difficulty: 8}, {id: 2, difficulty: 5}, {id: 1, difficulty: 2}]",
    )
    manager = system.start_manager(expected_workers=3, policy="arrival", stop_when_done=True)
    for name, skill in (("Junior", 3), ("Intermediate", 6), ("Senior", 9)):
        system.start_worker(name, skill)
        manager.wait_for_log("worker_changed", worker=name, now="connected")
    client = system.start_cli("submit", file, "--watch")
    assert client.wait_for_exit() == 1
    assert client.lines[-1] == "Success rate: 66.67%"
    assert manager.wait_for_exit() == 0
    assert manager.lines == [
        "All tasks completed",
        "Task 3 assigned to Junior - Failure (skill 3 is below difficulty 8)",
        "Task 2 assigned to Intermediate - Success",
        "Task 1 assigned to Senior - Success",
        "Success rate: 66.67%",
    ]


# --- real work -------------------------------------------------------------------------------


def test_five_workers_run_each_of_fifty_tasks_exactly_once(system: System) -> None:
    system.start_manager()
    workers = [
        system.start_worker(f"worker {n}", 5, "my_tasks:handlers", slots=2) for n in range(5)
    ]
    client = system.start_watching_submit(
        system.write_file("fifty.json", tasks_file(50, type="work"))
    )
    done = wait_for_result(client)
    assert done["counts"] == {"succeeded": 50}
    assert start_counts(system.folder) == {str(n): 1 for n in range(50)}
    assert {t["worker"] for t in done["tasks"]} <= {f"worker {n}" for n in range(5)}
    assert sum(len(w.logged("attempt_started")) for w in workers) == 50


def test_handlers_run_the_types_of_their_worker_and_pass_outputs_to_dependents(
    system: System,
) -> None:
    system.start_manager()
    system.start_worker("hands", 5, "my_tasks:handlers")
    system.start_worker("ears", 5, "my_tasks:other")
    file = system.write_file(
        "real.yaml",
        """
tasks:
  - {id: a, difficulty: 1, type: work}
  - {id: b, difficulty: 1, type: speech, payload: {words: [x, y]}}
  - {id: c, difficulty: 1, type: join, depends_on: [a, b], payload: {sep: "+"}}
  - {id: d, difficulty: 1, type: speech, payload: {word: x}}
  - {id: e, difficulty: 1, type: bad}
  - {id: f, difficulty: 1, type: work, depends_on: [e]}
""",
    )
    done = {
        t["id"]: t for t in wait_for_result(system.start_watching_submit(file), code=1)["tasks"]
    }
    assert [(id, t["status"], t["worker"]) for id, t in done.items()] == [
        ("a", "succeeded", "hands"),
        ("b", "succeeded", "ears"),
        ("c", "succeeded", "hands"),
        ("d", "failed", "ears"),
        ("e", "failed", "hands"),
        ("f", "failed", None),
    ]
    assert done["d"]["reason"] == "payload: words is missing (and 1 more)"
    assert done["e"]["reason"] == "SystemExit: whatever I do"
    assert done["f"]["reason"] == "dependency e failed"


# --- runs ------------------------------------------------------------------------------------


def test_two_runs_at_once_do_not_mix(system: System) -> None:
    system.start_manager()
    system.start_worker("one", 5, slots=2)
    system.start_worker("two", 5, slots=2)
    file = system.write_file("same.json", tasks_file(10))
    morning, evening = (
        system.start_watching_submit(file, "--run", run) for run in ("Morning", "Evening")
    )
    for client, run in ((morning, "Morning"), (evening, "Evening")):
        done = wait_for_result(client)
        assert (done["run"], done["counts"]) == (run, {"succeeded": 10})
        assert [t["id"] for t in done["tasks"]] == [str(n) for n in range(10)]


def test_tasks_that_are_submitted_twice_run_once(system: System) -> None:
    system.start_manager()
    system.start_worker("one", 5, "my_tasks:handlers")
    file = system.write_file("once.json", tasks_file(3, type="work"))
    assert wait_for_result(system.start_watching_submit(file))["counts"] == {"succeeded": 3}
    again = system.start_cli("submit", file)
    assert again.wait_for_exit() == 0
    assert again.out == (
        "nothing new: run default had all 3 tasks already; --run NAME makes another run of them\n"
    )
    assert start_counts(system.folder) == {"0": 1, "1": 1, "2": 1}


def test_a_refused_submission_is_one_line_that_names_the_file_and_exit_2(
    system: System,
) -> None:
    system.start_manager()
    file = system.write_file("bad.yaml", "tasks: [{id: 1, difficulty: 1, depends_on: [9]}]")
    for more in ([], ["--watch"]):
        client = system.start_cli("submit", file, *more)
        assert client.wait_for_exit() == 2
        assert client.err.count("\n") == 1
        assert client.err.startswith("skillq: bad.yaml: task 1 depends on 9, which is neither")
        assert not client.out


def test_a_later_submission_may_depend_on_tasks_of_its_run(system: System) -> None:
    system.start_manager()
    system.start_worker("one", 5)
    assert wait_for_result(
        system.start_watching_submit(system.write_file("a.json", tasks_file(2)))
    )["counts"] == {"succeeded": 2}
    more = system.write_file("b.yaml", "tasks: [{id: next, difficulty: 1, depends_on: [0, 1]}]")
    assert wait_for_result(system.start_watching_submit(more))["counts"] == {"succeeded": 3}


def test_manager_workers_and_client_may_start_in_any_order(system: System) -> None:
    client = system.start_watching_submit(system.write_file("tutorial.yaml", TUTORIAL))
    workers = system.start_tutorial_workers()
    for worker in workers:
        worker.wait_for_log("waiting_for_manager")
    system.start_manager(expected_workers=3)
    assert wait_for_result(client)["counts"] == {"succeeded": 3}


# --- errors ----------------------------------------------------------------------------------


def test_wrong_credentials_are_one_line_and_exit_3(system: System, broker: Broker) -> None:
    url = f"amqp://{quote(broker.user)}:no-such-secret@{broker.host}:{broker.port}/"
    for module in ("skillq_worker", "skillq_manager"):
        process = system.start(module, module, SKILLQ_BROKER_URL=url, SKILLQ_LOG_LEVEL="error")
        assert process.wait_for_exit() == 3
        assert process.err.count("\n") == 1
        assert f"refuses user '{broker.user}'" in process.err
        assert "no-such-secret" not in process.err


def test_a_missing_vhost_is_one_line_and_exit_3(system: System, broker: Broker) -> None:
    file = system.write_file("tutorial.yaml", TUTORIAL)
    url = broker.url("no-such-vhost")
    client = system.start_cli("submit", file, "--broker-url", url)
    assert client.wait_for_exit() == 3
    assert client.err.count("\n") == 1
    assert "refuses the vhost 'no-such-vhost'" in client.err


def test_an_unreadable_message_is_dead_lettered_once_and_the_run_continues(
    system: System, broker_url: str
) -> None:
    """The reason quotes the message, and the message is longer than a header may be."""
    manager = system.start_manager()
    worker = system.start_worker("one", 5)
    worker.wait_for_log("connected")
    unreadable = Outgoing(json.dumps({"type": "x" * 200_000}).encode(), "poison")

    async def publish() -> None:
        async with RabbitTransport(broker_url, app_id="", connection_name="tests") as transport:
            await transport.publish(topology.REPORTS, "result.one", unreadable)
            await transport.publish(topology.COMMANDS, "cancel.one", unreadable)

    asyncio.run(publish())
    assert wait_for_result(
        system.start_watching_submit(system.write_file("run.json", tasks_file(3)))
    )["counts"] == {"succeeded": 3}
    manager.wait_for_log("message_unreadable")
    worker.wait_for_log("message_unreadable")
    assert len(manager.logged("message_unreadable") + worker.logged("message_unreadable")) == 2


def test_submit_says_so_if_no_manager_answers(system: System) -> None:
    file = system.write_file("tutorial.yaml", TUTORIAL)
    client = system.start_cli("submit", file, "--connect-timeout", "0.5")
    assert client.wait_for_exit() == 3
    assert client.err.count("\n") == 1
    assert "no manager has served this broker for 0.5 s" in client.err
    assert client.err.endswith("start one: skillq manager\n")


def test_a_second_manager_with_another_store_leads_when_the_first_stops(system: System) -> None:
    first = system.start_manager()
    first.wait_for_log("leading")
    second = system.start_manager(store_url="memory://")
    second.wait_for_log("waiting_for_queue", 2)
    assert not second.logged("leading")
    first.signal(signal.SIGTERM)
    assert first.wait_for_exit() == 0
    second.wait_for_log("leading")


def test_the_manager_stops_in_order_on_sigterm_and_the_next_one_continues(system: System) -> None:
    manager = system.start_manager()
    worker = system.start_worker("one", 5)
    worker.wait_for_log("connected")
    manager.signal(signal.SIGTERM)
    assert manager.wait_for_exit(20) == 0
    assert manager.logged("stopped")
    again = system.start_manager()
    client = system.start_watching_submit(system.write_file("tutorial.json", tasks_file(2)))
    assert wait_for_result(client)["counts"] == {"succeeded": 2}
    assert again.logged("task_assigned", worker="one"), (
        "the worker should connect to the next manager"
    )


@pytest.mark.parametrize("logs", [True, False], ids=["log is read", "log is not read"])
def test_a_manager_whose_output_pipe_is_closed_serves_the_next_run(
    system: System, logs: bool
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    file = system.write_file("tutorial.yaml", TUTORIAL)
    with (system.folder / "log").open("wb") as log:
        manager = subprocess.Popen(
            [sys.executable, "-m", "skillq_manager"],
            cwd=system.folder,
            stdout=writing,
            stderr=log if logs else writing,
            env=system._environment,
        )
    os.close(writing)
    try:
        system.start_tutorial_workers()
        for run in ("first", "second"):
            assert wait_for_result(system.start_watching_submit(file, "--run", run))["counts"] == {
                "succeeded": 3
            }
        assert manager.poll() is None
        manager.send_signal(signal.SIGTERM)
        assert manager.wait(20) in (
            {0} if logs else {0, 120}
        )  # 120: Python could not write the rest of the log
    finally:
        manager.kill()
    if logs:
        log_text = (system.folder / "log").read_text()
        assert log_text.count('"event": "summary_not_printed"') == 2
