"""An error in a file, an option or the broker is reported in one clear line."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli_runner import RunCli, error_line

pytestmark = pytest.mark.usefixtures("tutorial_folder")


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
def test_an_error_in_a_file_is_one_line_with_file_item_and_remedy_and_exit_status_2(
    run_cli: RunCli, name: str
) -> None:
    text, expected = MISTAKES[name]
    Path("bad.yaml").write_text(text)
    line = error_line(run_cli("run", "bad.yaml"))
    assert line.startswith("skillq: bad.yaml")
    assert expected in line


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
    "a port that is none": (
        ["worker", "--broker-url", "amqp://me:secret@h:99999"],
        "a port that is no number",
    ),
    "off loopback without token": (["manager", "--http-host", "0.0.0.0"], "set SKILLQ_API_TOKEN"),
    "a port of the moon": (["manager", "--http-port", "65536"], "--http-port"),
    "a run without name": (["submit", "tutorial.yaml", "--run", "…"], "--run: '…' makes no name"),
    "a file to submit that is none": (["submit", "none.yaml"], "there is no such file"),
    "a log of another kind": (["worker", "--log-level", "loud"], "--log-level (SKILLQ_LOG_LEVEL)"),
}


@pytest.mark.parametrize("name", USAGE)
def test_a_usage_error_is_one_line_and_exit_status_2(run_cli: RunCli, name: str) -> None:
    arguments, expected = USAGE[name]
    line = error_line(run_cli(*arguments))
    assert expected in line
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
def test_services_report_an_invalid_variable_in_one_line(
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
    line = error_line((done.returncode, done.stdout, done.stderr))
    assert line.startswith(f"skillq {module.removeprefix('skillq_')}: ")


# --- an unreachable broker -------------------------------------------------------------------


@pytest.fixture
def closed_broker_url() -> str:
    """A broker URL with a port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"amqp://me:se%23cret@127.0.0.1:{probe.getsockname()[1]}/here"


@pytest.mark.parametrize(
    "arguments",
    [["submit", "tutorial.yaml"], ["submit", "tutorial.yaml", "--watch"], ["worker"], ["manager"]],
    ids=" ".join,
)
def test_an_unreachable_broker_is_one_line_with_its_address_and_the_time_of_trying(
    run_cli: RunCli, closed_broker_url: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLQ_BROKER_URL", closed_broker_url)
    monkeypatch.setenv("SKILLQ_CONNECT_TIMEOUT", "0.2")
    line = error_line(run_cli(*arguments), exit_status=3)
    assert closed_broker_url.partition("@")[2] in line
    assert re.search(r"tried for \d+ s", line)
    assert "cret" not in line


def test_a_host_name_without_an_address_is_unreachable(run_cli: RunCli) -> None:
    url = "amqp://me:secret@no-such-host.invalid"
    line = error_line(
        run_cli("submit", "tutorial.yaml", "--broker-url", url, *("--connect-timeout", "0")), 3
    )
    assert "no-such-host.invalid" in line
    assert "secret" not in line


def test_an_error_in_a_csv_file_that_another_file_names_is_reported_for_the_csv_file(
    run_cli: RunCli, tutorial_folder: Path
) -> None:
    (tutorial_folder / "work.yaml").write_text("workers: [{name: a, skill: 5}]\ntasks: hard.csv\n")
    (tutorial_folder / "hard.csv").write_text("id,difficulty\n1,44\n")
    assert error_line(run_cli("run", "work.yaml")).startswith(
        "skillq: hard.csv: task 1: difficulty"
    )


def test_a_csv_file_without_workers_is_refused_with_a_remedy(
    run_cli: RunCli, tutorial_folder: Path
) -> None:
    (tutorial_folder / "tasks.csv").write_text("id,difficulty\n1,4\n")
    assert "name it in a YAML file" in error_line(run_cli("run", "tasks.csv"))
