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
from tests.broker import Broker
from tests.e2e.processes import SUMMARY, TUTORIAL, System, answer, begun, tasks

pytestmark = [pytest.mark.e2e, pytest.mark.rabbitmq, pytest.mark.timeout(120)]


# --- the tutorial ----------------------------------------------------------------------------


def test_the_tutorial_ends_with_its_summary_and_then_workers_and_manager_leave(
    system: System,
) -> None:
    manager = system.manager(expected_workers=3, stop_when_done=True)
    client = system.skillq("submit", system.write("tutorial.yaml", TUTORIAL), "--watch")
    workers = system.tiers()
    assert client.ends() == 0
    assert client.lines[-5:] == SUMMARY
    assert not client.err
    assert [worker.ends() for worker in workers] == [0, 0, 0]
    assert manager.ends() == 0
    assert manager.lines == SUMMARY
    assert all(worker.logged("stopped") for worker in [manager, *workers])


def test_the_manager_assigns_nothing_before_the_expected_workers_are_there(system: System) -> None:
    manager = system.manager(expected_workers=2)
    senior = system.worker("Senior", 9)
    client = system.submit(system.write("tutorial.yaml", TUTORIAL))
    manager.says("submission_accepted")
    manager.says("worker_changed", worker="Senior")
    assert not manager.logged("task_assigned")
    system.worker("Junior", 3)
    done = answer(client)
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
    file = system.write("file.yaml", FILE)
    embedded = system.skillq("run", file, "--json")
    system.manager(expected_workers=3)
    system.worker("Junior", 3)
    system.worker("Expert", 5, specialty="ocr")
    system.worker("Senior", 9)
    watched = answer(system.submit(file), code=1)
    assert watched == answer(embedded, code=1)
    assert {t["id"]: (t["status"], t["worker"]) for t in watched["tasks"]} == {
        "read": ("succeeded", "Expert"),
        "easy": ("succeeded", "Junior"),
        "hard": ("succeeded", "Senior"),
        "slow": ("timed_out", "Senior"),
        "after": ("failed", None),
    }
    assert (watched["run"], watched["success_rate"]) == ("Nightly batch", 60.0)


def test_the_tutorial_of_failures_has_the_same_outcome_over_rabbitmq(system: System) -> None:
    file = system.write(
        "failures.yaml",
        "tasks: [{id: 3, difficulty: 8}, {id: 2, difficulty: 5}, {id: 1, difficulty: 2}]",
    )
    manager = system.manager(expected_workers=3, policy="arrival", stop_when_done=True)
    for name, skill in (("Junior", 3), ("Intermediate", 6), ("Senior", 9)):
        system.worker(name, skill)
        manager.says("worker_changed", worker=name, now="connected")
    client = system.skillq("submit", file, "--watch")
    assert client.ends() == 1
    assert client.lines[-1] == "Success rate: 66.67%"
    assert manager.ends() == 0
    assert manager.lines == [
        "All tasks completed",
        "Task 3 assigned to Junior - Failure (skill 3 is below difficulty 8)",
        "Task 2 assigned to Intermediate - Success",
        "Task 1 assigned to Senior - Success",
        "Success rate: 66.67%",
    ]


# --- real work -------------------------------------------------------------------------------


def test_fifty_tasks_over_five_workers_are_each_done_exactly_once(system: System) -> None:
    system.manager()
    workers = [system.worker(f"worker {n}", 5, "my_tasks:handlers", slots=2) for n in range(5)]
    client = system.submit(system.write("fifty.json", tasks(50, type="work")))
    done = answer(client)
    assert done["counts"] == {"succeeded": 50}
    assert begun(system.here) == {str(n): 1 for n in range(50)}
    assert {t["worker"] for t in done["tasks"]} <= {f"worker {n}" for n in range(5)}
    assert sum(len(w.logged("attempt_started")) for w in workers) == 50


def test_real_handlers_do_each_their_types_and_pass_their_outputs_on(system: System) -> None:
    system.manager()
    system.worker("hands", 5, "my_tasks:handlers")
    system.worker("ears", 5, "my_tasks:other")
    file = system.write(
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
    done = {t["id"]: t for t in answer(system.submit(file), code=1)["tasks"]}
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
    system.manager()
    system.worker("one", 5, slots=2)
    system.worker("two", 5, slots=2)
    file = system.write("same.json", tasks(10))
    morning, evening = (system.submit(file, "--run", run) for run in ("Morning", "Evening"))
    for client, run in ((morning, "Morning"), (evening, "Evening")):
        done = answer(client)
        assert (done["run"], done["counts"]) == (run, {"succeeded": 10})
        assert [t["id"] for t in done["tasks"]] == [str(n) for n in range(10)]


def test_what_is_submitted_twice_is_done_once(system: System) -> None:
    system.manager()
    system.worker("one", 5, "my_tasks:handlers")
    file = system.write("once.json", tasks(3, type="work"))
    assert answer(system.submit(file))["counts"] == {"succeeded": 3}
    again = system.skillq("submit", file)
    assert again.ends() == 0
    assert again.out == (
        "nothing new: run default had all 3 tasks already; --run NAME makes another run of them\n"
    )
    assert begun(system.here) == {"0": 1, "1": 1, "2": 1}


def test_a_submission_that_the_manager_refuses_is_one_line_with_its_file_and_exit_2(
    system: System,
) -> None:
    system.manager()
    file = system.write("bad.yaml", "tasks: [{id: 1, difficulty: 1, depends_on: [9]}]")
    for more in ([], ["--watch"]):
        client = system.skillq("submit", file, *more)
        assert client.ends() == 2
        assert client.err.count("\n") == 1
        assert client.err.startswith("skillq: bad.yaml: task 1 depends on 9, which is neither")
        assert not client.out


def test_a_run_may_grow_and_depend_on_what_it_has(system: System) -> None:
    system.manager()
    system.worker("one", 5)
    assert answer(system.submit(system.write("a.json", tasks(2))))["counts"] == {"succeeded": 2}
    more = system.write("b.yaml", "tasks: [{id: next, difficulty: 1, depends_on: [0, 1]}]")
    assert answer(system.submit(more))["counts"] == {"succeeded": 3}


def test_manager_workers_and_client_may_come_in_any_order(system: System) -> None:
    client = system.submit(system.write("tutorial.yaml", TUTORIAL))
    workers = system.tiers()
    for worker in workers:
        worker.says("waiting_for_manager")
    system.manager(expected_workers=3)
    assert answer(client)["counts"] == {"succeeded": 3}


# --- what should not happen ------------------------------------------------------------------


def test_wrong_credentials_are_one_line_and_exit_3(system: System, broker: Broker) -> None:
    url = f"amqp://{quote(broker.user)}:no-such-secret@{broker.host}:{broker.port}/"
    for module in ("skillq_worker", "skillq_manager"):
        process = system.start(module, module, SKILLQ_BROKER_URL=url, SKILLQ_LOG_LEVEL="error")
        assert process.ends() == 3
        assert process.err.count("\n") == 1
        assert f"refuses user '{broker.user}'" in process.err
        assert "no-such-secret" not in process.err


def test_a_vhost_that_is_not_there_is_one_line_and_exit_3(system: System, broker: Broker) -> None:
    file = system.write("tutorial.yaml", TUTORIAL)
    url = broker.url("no-such-vhost")
    client = system.skillq("submit", file, "--broker-url", url)
    assert client.ends() == 3
    assert client.err.count("\n") == 1
    assert "refuses the vhost 'no-such-vhost'" in client.err


def test_what_nobody_can_read_is_parked_once_and_the_run_goes_on(
    system: System, broker_url: str
) -> None:
    """Its reason quotes it, and it is longer than a header may be."""
    manager = system.manager()
    worker = system.worker("one", 5)
    worker.says("connected")
    poison = Outgoing(json.dumps({"type": "x" * 200_000}).encode(), "poison")

    async def publish() -> None:
        async with RabbitTransport(broker_url, app_id="", connection_name="tests") as transport:
            await transport.publish(topology.REPORTS, "result.one", poison)
            await transport.publish(topology.COMMANDS, "cancel.one", poison)

    asyncio.run(publish())
    assert answer(system.submit(system.write("run.json", tasks(3))))["counts"] == {"succeeded": 3}
    manager.says("message_unreadable")
    worker.says("message_unreadable")
    assert len(manager.logged("message_unreadable") + worker.logged("message_unreadable")) == 2


def test_a_submitter_that_no_manager_answers_says_so(system: System) -> None:
    file = system.write("tutorial.yaml", TUTORIAL)
    client = system.skillq("submit", file, "--connect-timeout", "0.5")
    assert client.ends() == 3
    assert client.err.count("\n") == 1
    assert "no manager has served this broker for 0.5 s" in client.err
    assert client.err.endswith("start one: skillq manager\n")


def test_a_second_manager_with_another_store_waits_and_takes_over(system: System) -> None:
    first = system.manager()
    first.says("leading")
    second = system.manager(store_url="memory://")
    second.says("waiting_for_queue", 2)
    assert not second.logged("leading")
    first.signal(signal.SIGTERM)
    assert first.ends() == 0
    second.says("leading")


def test_the_manager_leaves_in_order_when_it_is_told_to(system: System) -> None:
    manager = system.manager()
    worker = system.worker("one", 5)
    worker.says("connected")
    manager.signal(signal.SIGTERM)
    assert manager.ends(20) == 0
    assert manager.logged("stopped")
    again = system.manager()
    client = system.submit(system.write("tutorial.json", tasks(2)))
    assert answer(client)["counts"] == {"succeeded": 2}
    assert again.logged("task_assigned", worker="one"), "the worker found the next manager"


@pytest.mark.parametrize("logs", [True, False], ids=["its log is read", "nor its log"])
def test_a_manager_whose_summary_nobody_reads_serves_the_next_run(
    system: System, logs: bool
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    file = system.write("tutorial.yaml", TUTORIAL)
    with (system.here / "log").open("wb") as log:
        manager = subprocess.Popen(
            [sys.executable, "-m", "skillq_manager"],
            cwd=system.here,
            stdout=writing,
            stderr=log if logs else writing,
            env=system._environment,
        )
    os.close(writing)
    try:
        system.tiers()
        for run in ("first", "second"):
            assert answer(system.submit(file, "--run", run))["counts"] == {"succeeded": 3}
        assert manager.poll() is None
        manager.send_signal(signal.SIGTERM)
        assert manager.wait(20) in ({0} if logs else {0, 120})  # 120: what is left of the log
    finally:
        manager.kill()
    if logs:
        said = (system.here / "log").read_text()
        assert said.count('"event": "summary_not_printed"') == 2
