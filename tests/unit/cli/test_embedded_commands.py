"""The commands `demo` and `run` as a shell sees them: output, exit status, and interrupts."""

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
from tests.support.cli_runner import FAST, RunCli, cli_command, quick_demo_command, start_cli

pytestmark = pytest.mark.usefixtures("tutorial_folder")


BROKEN = """
from skillq_worker import Handlers
handlers = Handlers()
@handlers.task
def broken(): raise ValueError("no such page")
"""


def test_the_traceback_of_a_handler_is_on_standard_error(tutorial_folder: Path) -> None:
    (tutorial_folder / "broken.py").write_text(BROKEN)
    (tutorial_folder / "broken.yaml").write_text(
        "workers: [{name: a, skill: 5, handlers: 'broken:handlers'}]\n"
        "tasks: [{id: 1, difficulty: 1, type: broken, max_attempts: 1}]\n"
    )
    done = subprocess.run(
        cli_command("run", "broken.yaml"), capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert "handler_raised" in done.stderr
    assert done.stderr.endswith("ValueError: no such page\n")


@pytest.fixture
def quick_tutorial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tutorial, "TIME_SCALE", 0.001)


# --- demo ------------------------------------------------------------------------------------


def test_the_demo_ends_with_the_five_lines_of_the_tutorial_within_ten_seconds() -> None:
    start = time.monotonic()
    done = subprocess.run(
        cli_command("demo"), capture_output=True, text=True, check=False, timeout=30
    )
    assert time.monotonic() - start < 10
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
def test_without_a_terminal_the_demo_prints_progress_as_plain_lines(run_cli: RunCli) -> None:
    _, out, _ = run_cli("demo")
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
def test_the_demo_of_failures_is_the_second_diagram_of_the_tutorial(run_cli: RunCli) -> None:
    exit_status, out, err = run_cli("demo", "--scenario", "failures")
    assert exit_status == 1
    assert not err
    assert out.splitlines()[-5:] == [
        "All tasks completed",
        "Task 3 assigned to Junior - Failure (skill 3 is below difficulty 8)",
        "Task 2 assigned to Intermediate - Success",
        "Task 1 assigned to Senior - Success",
        "Success rate: 66.67%",
    ]


@pytest.mark.usefixtures("quick_tutorial")
def test_the_demo_in_json_is_one_object_and_nothing_else(run_cli: RunCli) -> None:
    exit_status, out, err = run_cli("demo", "--scenario", "failures", "--json")
    result = json.loads(out)
    assert (exit_status, err, out.count("\n")) == (1, "", 1)
    assert result["run"] == "default"
    assert result["success_rate"] == 66.67
    assert result["counts"] == {"succeeded": 2, "failed": 1}
    assert result["tasks"][0] == {
        "id": "3",
        "worker": "Junior",
        "status": "failed",
        "reason": "skill 3 is below difficulty 8",
    }


# --- run -------------------------------------------------------------------------------------


def test_a_file_is_run_and_its_summary_is_printed(run_cli: RunCli) -> None:
    exit_status, out, err = run_cli("run", "tutorial.yaml", *FAST)
    assert (exit_status, err) == (0, "")
    assert out.splitlines()[-5:] == [
        "All tasks completed",
        "Task 1 assigned to Junior - Success",
        "Task 2 assigned to Intermediate - Success",
        "Task 3 assigned to Senior - Success",
        "Success rate: 100.00%",
    ]


def test_an_option_for_the_time_scale_overrides_the_environment(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLQ_TIME_SCALE", "0.001")
    start = time.monotonic()
    assert run_cli("run", "tutorial.yaml")[0] == 0
    assert time.monotonic() - start < 3
    monkeypatch.setenv("SKILLQ_TIME_SCALE", "1000")
    assert run_cli("run", "tutorial.yaml", *FAST)[0] == 0


def test_the_policy_is_chosen_by_name(run_cli: RunCli) -> None:
    _, out, _ = run_cli("run", "tutorial.yaml", "--policy", "arrival", *FAST)
    assert out.splitlines()[-1] == "Success rate: 100.00%"


def test_names_are_shown_as_written_with_control_characters_escaped(run_cli: RunCli) -> None:
    names = ["Jürgen Ünal", "GPU box #1", "red\x1b[31m"]
    work = {
        "run": "Nächtlich",
        "workers": [{"name": name, "skill": 3 * n + 1} for n, name in enumerate(names, 1)],
        "tasks": [{"id": n, "difficulty": 3 * n + 1} for n in (1, 2, 3)],
    }
    Path("names.json").write_text(json.dumps(work))
    exit_status, out, _ = run_cli("run", "names.json", *FAST)
    assert exit_status == 0
    assert "Task 1 assigned to Jürgen Ünal - Success" in out
    assert "Task 2 assigned to GPU box #1 - Success" in out
    assert r"Task 3 assigned to red\x1b[31m - Success" in out
    assert "\x1b" not in out


def test_the_summary_of_many_tasks_names_only_tasks_that_did_not_succeed(run_cli: RunCli) -> None:
    lines = ["id,difficulty", *(f"{n},{1 + 9 * (n == 500)}" for n in range(1200))]
    Path("many.csv").write_text("\n".join(lines))
    Path("many.yaml").write_text("workers: [{name: a, skill: 5, slots: 100}]\ntasks: many.csv")
    exit_status, out, _ = run_cli("run", "many.yaml", "--policy", "arrival", "--time-scale", "0")
    assert exit_status == 1
    assert out.splitlines()[-4:] == [
        "All tasks completed",
        "Task 500 assigned to a - Failure (skill 5 is below difficulty 10)",
        "… and 1199 more",
        "Success rate: 99.92%",
    ]
    assert len(out.splitlines()) < 20


# --- interrupted -----------------------------------------------------------------------------


def test_ctrl_c_ends_a_run_within_three_seconds_with_one_line_and_exit_status_130() -> None:
    with start_cli("run", "tutorial.yaml", "--time-scale", "100") as running:
        assert running.stdout is not None
        running.stdout.readline()  # a task is assigned
        start = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=10)
        assert time.monotonic() - start < 3
    assert (running.returncode, err) == (130, "skillq: interrupted\n")


def test_ctrl_c_ends_a_run_whose_handler_never_returns(tutorial_folder: Path) -> None:
    (tutorial_folder / "stuck.py").write_text(
        "import time\nfrom skillq_worker import Handlers\nhandlers = Handlers()\n"
        "@handlers.task\ndef stuck():\n    print('started', flush=True)\n    time.sleep(600)\n"
    )
    Path("stuck.yaml").write_text(
        "workers: [{name: a, skill: 5, handlers: 'stuck:handlers'}]\n"
        "tasks: [{id: 1, difficulty: 1, type: stuck}]"
    )
    with start_cli("run", "stuck.yaml") as running:
        assert running.stdout is not None
        while "started" not in running.stdout.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=10)
    assert (running.returncode, err) == (130, "skillq: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["skillq_manager", "skillq_worker"])
def test_a_service_that_waits_for_its_broker_ends_on_a_signal(
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
            with silent.accept()[0]:  # the service waits for the broker's first frame
                running.send_signal(number)
                _, err = running.communicate(timeout=10)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert err.endswith(f"skillq {module.removeprefix('skillq_')}: interrupted\n")


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--json"]], ids=" ".join)
def test_a_closed_pipe_ends_the_command_quietly(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        quick_demo_command(*arguments[1:]),
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=30,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_names_every_command_and_each_option_its_variable(run_cli: RunCli) -> None:
    exit_status, out, _ = run_cli("--help")
    assert exit_status == 0
    for name in ("demo", "run", "submit", "manager", "worker"):
        assert f"\n  {name}" in out
        assert run_cli(name, "--help")[0] == 0
    assert "SKILLQ_TIME_SCALE" in run_cli("run", "--help")[1]


def test_the_version_is_printed(run_cli: RunCli) -> None:
    exit_status, out, _ = run_cli("--version")
    assert (exit_status, out.startswith("skillq")) == (0, True)
