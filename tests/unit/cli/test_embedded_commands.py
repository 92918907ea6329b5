"""The commands that get work done, as a shell sees them: what they print, and how they exit."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skillq_cli import tutorial
from tests.unit.cli.shell import FAST, Skillq, command, quick_demo, start

pytestmark = pytest.mark.usefixtures("here")


BROKEN = """
from skillq_worker import Handlers
handlers = Handlers()
@handlers.task
def broken(): raise ValueError("no such page")
"""


def test_the_traceback_of_a_handler_is_on_standard_error(here: Path) -> None:
    (here / "broken.py").write_text(BROKEN)
    (here / "broken.yaml").write_text(
        "workers: [{name: a, skill: 5, handlers: 'broken:handlers'}]\n"
        "tasks: [{id: 1, difficulty: 1, type: broken, max_attempts: 1}]\n"
    )
    done = subprocess.run(
        command("run", "broken.yaml"), capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert "handler_raised" in done.stderr
    assert done.stderr.endswith("ValueError: no such page\n")


@pytest.fixture
def quick_tutorial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tutorial, "TIME_SCALE", 0.001)


# --- demo ------------------------------------------------------------------------------------


def test_the_demo_ends_with_the_tutorial_s_five_lines_in_about_a_second() -> None:
    began = time.monotonic()
    done = subprocess.run(command("demo"), capture_output=True, text=True, check=False, timeout=30)
    assert time.monotonic() - began < 10
    assert done.returncode == 0
    assert not done.stderr
    assert done.stdout.endswith(
        "\nAll tasks completed\n"
        "Task 1 assigned to Junior - Success\n"
        "Task 2 assigned to Intermediate - Success\n"
        "Task 3 assigned to Senior - Success\n"
        "Success rate: 100.00%\n"
    )


@pytest.mark.usefixtures("quick_tutorial")
def test_the_demo_shows_live_progress_in_plain_lines_off_a_terminal(skillq: Skillq) -> None:
    _, out, _ = skillq("demo")
    progress = out.splitlines()[:-5]
    assert sorted(line for line in progress if "assigned" in line) == [
        "task 1: assigned to Junior",
        "task 2: assigned to Intermediate",
        "task 3: assigned to Senior",
    ]
    assert sorted(line for line in progress if "assigned" not in line) == [
        f"task {n}: succeeded" for n in (1, 2, 3)
    ]


@pytest.mark.usefixtures("quick_tutorial")
def test_the_demo_of_failures_is_the_tutorial_s_second_diagram(skillq: Skillq) -> None:
    code, out, err = skillq("demo", "--scenario", "failures")
    assert code == 1
    assert not err
    assert out.splitlines()[-5:] == [
        "All tasks completed",
        "Task 3 assigned to Junior - Failure (skill 3 is below difficulty 8)",
        "Task 2 assigned to Intermediate - Success",
        "Task 1 assigned to Senior - Success",
        "Success rate: 66.67%",
    ]


@pytest.mark.usefixtures("quick_tutorial")
def test_the_demo_in_json_is_one_object_and_nothing_else(skillq: Skillq) -> None:
    code, out, err = skillq("demo", "--scenario", "failures", "--json")
    answer = json.loads(out)
    assert (code, err, out.count("\n")) == (1, "", 1)
    assert answer["run"] == "default"
    assert answer["success_rate"] == 66.67
    assert answer["counts"] == {"succeeded": 2, "failed": 1}
    assert answer["tasks"][0] == {
        "id": "3",
        "worker": "Junior",
        "status": "failed",
        "reason": "skill 3 is below difficulty 8",
    }


# --- run -------------------------------------------------------------------------------------


def test_a_file_of_one_s_own_is_run_and_summed_up(skillq: Skillq) -> None:
    code, out, err = skillq("run", "tutorial.yaml", *FAST)
    assert (code, err) == (0, "")
    assert out.splitlines()[-5:] == [
        "All tasks completed",
        "Task 1 assigned to Junior - Success",
        "Task 2 assigned to Intermediate - Success",
        "Task 3 assigned to Senior - Success",
        "Success rate: 100.00%",
    ]


def test_the_time_scale_may_come_from_the_environment_and_an_option_wins(
    skillq: Skillq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLQ_TIME_SCALE", "0.001")
    began = time.monotonic()
    assert skillq("run", "tutorial.yaml")[0] == 0
    assert time.monotonic() - began < 3
    monkeypatch.setenv("SKILLQ_TIME_SCALE", "1000")
    assert skillq("run", "tutorial.yaml", *FAST)[0] == 0


def test_the_policy_is_chosen_by_name(skillq: Skillq) -> None:
    _, out, _ = skillq("run", "tutorial.yaml", "--policy", "arrival", *FAST)
    assert out.splitlines()[-1] == "Success rate: 100.00%"


def test_names_are_shown_as_they_were_written_and_no_terminal_obeys_them(skillq: Skillq) -> None:
    names = ["Jürgen Ünal", "GPU box #1", "red\x1b[31m"]
    work = {
        "run": "Nächtlich",
        "workers": [{"name": name, "skill": 3 * n + 1} for n, name in enumerate(names, 1)],
        "tasks": [{"id": n, "difficulty": 3 * n + 1} for n in (1, 2, 3)],
    }
    Path("names.json").write_text(json.dumps(work))
    code, out, _ = skillq("run", "names.json", *FAST)
    assert code == 0
    assert "Task 1 assigned to Jürgen Ünal - Success" in out
    assert "Task 2 assigned to GPU box #1 - Success" in out
    assert r"Task 3 assigned to red\x1b[31m - Success" in out
    assert "\x1b" not in out


def test_a_summary_of_very_many_tasks_names_only_those_that_did_not_succeed(skillq: Skillq) -> None:
    lines = ["id,difficulty", *(f"{n},{1 + 9 * (n == 500)}" for n in range(1200))]
    Path("many.csv").write_text("\n".join(lines))
    Path("many.yaml").write_text("workers: [{name: a, skill: 5, slots: 100}]\ntasks: many.csv")
    code, out, _ = skillq("run", "many.yaml", "--policy", "arrival", "--time-scale", "0")
    assert code == 1
    assert out.splitlines()[-4:] == [
        "All tasks completed",
        "Task 500 assigned to a - Failure (skill 5 is below difficulty 10)",
        "… and 1199 more",
        "Success rate: 99.92%",
    ]
    assert len(out.splitlines()) < 20


# --- interrupted -----------------------------------------------------------------------------


def test_ctrl_c_ends_a_run_with_one_line_and_130_quickly() -> None:
    with start("run", "tutorial.yaml", "--time-scale", "100") as running:
        assert running.stdout is not None
        running.stdout.readline()  # a task is assigned
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=10)
        assert time.monotonic() - began < 3
    assert (running.returncode, err) == (130, "skillq: interrupted\n")


def test_ctrl_c_ends_a_run_whose_handler_never_returns(here: Path) -> None:
    (here / "stuck.py").write_text(
        "import time\nfrom skillq_worker import Handlers\nhandlers = Handlers()\n"
        "@handlers.task\ndef stuck():\n    print('begun', flush=True)\n    time.sleep(600)\n"
    )
    Path("stuck.yaml").write_text(
        "workers: [{name: a, skill: 5, handlers: 'stuck:handlers'}]\n"
        "tasks: [{id: 1, difficulty: 1, type: stuck}]"
    )
    with start("run", "stuck.yaml") as running:
        assert running.stdout is not None
        while "begun" not in running.stdout.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=10)
    assert (running.returncode, err) == (130, "skillq: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["skillq_manager", "skillq_worker"])
def test_a_service_that_waits_for_its_broker_leaves_when_it_is_told_to(
    module: str, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = os.environ | {
            "SKILLQ_BROKER_URL": f"amqp://127.0.0.1:{silent.getsockname()[1]}/",
            "SKILLQ_STORE_URL": "memory://",
            "SKILLQ_HTTP_PORT": "0",
        }
        with subprocess.Popen(
            [sys.executable, "-m", module], stderr=subprocess.PIPE, text=True, env=environment
        ) as running:
            silent.settimeout(30)
            with silent.accept()[0]:  # it waits for the greeting, in vain
                running.send_signal(number)
                _, err = running.communicate(timeout=10)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert err.endswith(f"skillq {module.removeprefix('skillq_')}: interrupted\n")


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--json"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        quick_demo(*arguments[1:]), stdout=writing, stderr=subprocess.PIPE, check=False, timeout=30
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_names_every_command_and_each_option_its_variable(skillq: Skillq) -> None:
    code, out, _ = skillq("--help")
    assert code == 0
    for name in ("demo", "run", "submit", "manager", "worker"):
        assert f"\n  {name}" in out
        assert skillq(name, "--help")[0] == 0
    assert "SKILLQ_TIME_SCALE" in skillq("run", "--help")[1]


def test_the_version_is_told(skillq: Skillq) -> None:
    code, out, _ = skillq("--version")
    assert (code, out.startswith("skillq")) == (0, True)
