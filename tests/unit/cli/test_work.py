"""The commands that get work done, as a shell sees them: what they print, and how they exit."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skillq_cli import command as command_line

TUTORIAL = """
workers:
  - {name: Junior, skill: 3}
  - {name: Intermediate, skill: 6}
  - {name: Senior, skill: 9}
tasks:
  - {id: 1, description: Simple calculation, difficulty: 2}
  - {id: 2, description: Data analysis, difficulty: 5}
  - {id: 3, description: ML model training, difficulty: 8}
"""
FAST = ("--time-scale", "0.001")

Skillq = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SKILLQ_")]:
        monkeypatch.delenv(name)
    (tmp_path / "tutorial.yaml").write_text(TUTORIAL)
    return tmp_path


@pytest.fixture
def skillq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Skillq:
    """The command in this process: its exit status, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["skillq", *arguments])
        code = command_line.run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def complaint(answer: tuple[int, str, str], code: int = 2) -> str:
    """The one line of an answer that complains, and does nothing else."""
    assert answer[0] == code
    assert not answer[1]
    assert answer[2].count("\n") == 1
    assert answer[2].endswith("\n")
    return answer[2].rstrip("\n")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "skillq_cli", *arguments]


def start(*arguments: str, **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | more,
    )


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


# --- bad input -------------------------------------------------------------------------------

MISTAKES = {
    "a difficulty of 11": (
        "workers: [{name: a, skill: 5}]\ntasks: [{id: 7, difficulty: 11}]",
        "task 7: difficulty: ",
    ),
    "a skill of 0": (
        "workers: [{name: a, skill: 0}]\ntasks: [{id: 7, difficulty: 1}]",
        "worker a: skill: ",
    ),
    "an unknown field": ("tasks: [{id: 7, dificulty: 1}]", "did you mean 'difficulty'?"),
    "a duplicate id": (
        "tasks: [{id: 7, difficulty: 1}, {id: 7, difficulty: 1}]",
        "task 7: two tasks have this id; give each its own",
    ),
    "a cycle": (
        "tasks: [{id: 7, difficulty: 1, depends_on: [8]}, {id: 8, difficulty: 1, depends_on: [7]}]",
        "break the cycle",
    ),
    "a missing dependency": (
        "workers: [{name: a, skill: 5}]\ntasks: [{id: 7, difficulty: 1, depends_on: [6]}]",
        "task 7: depends on 6, which is not in the file; add it, or correct the id",
    ),
    "two workers of one name": (
        "workers: [{name: a, skill: 5}, {name: A, skill: 6}]\ntasks: [{id: 7, difficulty: 1}]",
        "give it another name",
    ),
    "no YAML": ("tasks: [", "is no YAML"),
    "no workers": ("tasks: [{id: 7, difficulty: 1}]", "the file has no workers"),
    "nobody able": (
        "workers: [{name: a, skill: 5}]\ntasks: [{id: 7, difficulty: 6}]",
        "task 7: no worker can do it: it needs skill 6, the best has 5",
    ),
    "handlers that do not import": (
        "workers: [{name: a, skill: 5, handlers: 'not_there:handlers'}]\ntasks: [{id: 7, difficulty: 6}]",
        "module not_there does not import",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_input_is_one_line_with_file_item_and_remedy_and_exit_2(
    skillq: Skillq, name: str
) -> None:
    text, said = MISTAKES[name]
    Path("bad.yaml").write_text(text)
    line = complaint(skillq("run", "bad.yaml"))
    assert line.startswith("skillq: bad.yaml")
    assert said in line


USAGE: dict[str, tuple[list[str], str]] = {
    "no such command": (["dance"], "No such command 'dance'"),
    "no file": (["run"], "Missing argument 'FILE'"),
    "a file that is not there": (["run", "none.yaml"], "none.yaml: there is no such file"),
    "a folder": (["run", "."], "a file ends in"),
    "an unknown option": (["run", "tutorial.yaml", "--fast"], "No such option"),
    "an unknown scenario": (["demo", "--scenario", "x"], "'x' is not one of 'well', 'failures'"),
    "an unknown policy": (
        ["run", "tutorial.yaml", "--policy", "x"],
        "--policy (SKILLQ_POLICY): should be 'best-fit' or 'arrival', not 'x'",
    ),
    "a negative scale": (
        ["run", "tutorial.yaml", "--time-scale", "-1"],
        "--time-scale (SKILLQ_TIME_SCALE)",
    ),
    "an endless scale": (["run", "tutorial.yaml", "--time-scale", "inf"], "--time-scale"),
    "a scale of words": (["run", "tutorial.yaml", "--time-scale", "slow"], "not 'slow'"),
    "a skill of 11": (["worker", "--skill", "11"], "--skill (SKILLQ_SKILL)"),
    "no slots": (["worker", "--slots", "0"], "--slots (SKILLQ_SLOTS)"),
    "a reserved name": (["worker", "--name", "all"], "'all' is reserved: choose another name"),
    "a name of signs": (["worker", "--name", "!!"], "--name (SKILLQ_NAME)"),
    "handlers without colon": (["worker", "my_tasks"], "write MODULE:HANDLERS"),
    "handlers that are not there": (["worker", "not_there:handlers"], "does not import"),
    "a broker of another kind": (
        ["worker", "--broker-url", "http://me:secret@host"],
        "should be amqp://user:password@host:5672/vhost",
    ),
    "a broker without host": (["worker", "--broker-url", "amqp://"], "should be amqp://"),
    "a port that is none": (["worker", "--broker-url", "amqp://me:secret@h:99999"], "not usable"),
    "off loopback without token": (["manager", "--http-host", "0.0.0.0"], "set SKILLQ_API_TOKEN"),
    "a port of the moon": (["manager", "--http-port", "65536"], "--http-port"),
    "a run without name": (["submit", "tutorial.yaml", "--run", "…"], "--run: '…' makes no name"),
    "a file to submit that is none": (["submit", "none.yaml"], "there is no such file"),
    "a log of another kind": (["worker", "--log-level", "loud"], "--log-level (SKILLQ_LOG_LEVEL)"),
}


@pytest.mark.parametrize("name", USAGE)
def test_a_wrong_call_is_one_line_and_exit_2(skillq: Skillq, name: str) -> None:
    arguments, said = USAGE[name]
    line = complaint(skillq(*arguments))
    assert said in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("skillq_manager", "SKILLQ_HTTP_HOST", "0.0.0.0"),
        ("skillq_manager", "SKILLQ_STOP_WHEN_DONE", "perhaps"),
        ("skillq_worker", "SKILLQ_SKILL", "eleven"),
        ("skillq_worker", "SKILLQ_BROKER_URL_FILE", "not-there"),
    ],
)
def test_the_services_say_what_is_wrong_with_a_variable_in_one_line(
    module: str, name: str, value: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=os.environ | {name: value},
    )
    line = complaint((done.returncode, done.stdout, done.stderr))
    assert line.startswith(f"skillq {module.removeprefix('skillq_')}: ")


# --- a broker that is not there --------------------------------------------------------------


@pytest.fixture
def nowhere() -> str:
    """A broker URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"amqp://me:se%23cret@127.0.0.1:{probe.getsockname()[1]}/here"


@pytest.mark.parametrize(
    "arguments",
    [["submit", "tutorial.yaml"], ["submit", "tutorial.yaml", "--watch"], ["worker"], ["manager"]],
    ids=" ".join,
)
def test_an_unreachable_broker_is_one_line_with_its_address_and_how_long_we_tried(
    skillq: Skillq, nowhere: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLQ_BROKER_URL", nowhere)
    monkeypatch.setenv("SKILLQ_CONNECT_TIMEOUT", "0.2")
    line = complaint(skillq(*arguments), code=3)
    assert nowhere.partition("@")[2] in line
    assert re.search(r"tried for \d+ s", line)
    assert "cret" not in line


def test_a_host_that_has_no_address_is_unreachable(skillq: Skillq) -> None:
    url = "amqp://me:secret@no-such-host.invalid"
    line = complaint(
        skillq("submit", "tutorial.yaml", "--broker-url", url, *("--connect-timeout", "0")), 3
    )
    assert "no-such-host.invalid" in line
    assert "secret" not in line


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
        command(*arguments), stdout=writing, stderr=subprocess.PIPE, check=False, timeout=30
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
