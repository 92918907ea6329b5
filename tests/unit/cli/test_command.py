"""The command line as a whole: what it lists, what it imports, and how it bears with its terminal."""

import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from skillq_cli import queries
from skillq_cli.command import COMMANDS, cli, load
from tests.unit.cli.shell import command, quick_demo

HEAVY = {
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "prometheus_client",
    "httpx",
    "aio_pika",
    "aiormq",
}


def imported_by(*arguments: str) -> set[str]:
    """The packages that a command imports, from its start to its end."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "skillq_cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return {found[1] for found in re.finditer(r"\| +(\w+)", done.stderr)}


# --- what there is ---------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=str)
def test_help_lists_every_command_with_what_it_does(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    for name, place in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(place.help[:30])}", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_listed_is_what_the_command_says_of_itself(name: str) -> None:
    loaded = load(name)
    assert loaded.name == name
    assert (loaded.help or "").startswith(COMMANDS[name].help.removesuffix("."))


def test_every_command_that_asks_is_listed() -> None:
    assert {one.name for one in queries.COMMANDS} == {
        name for name, place in COMMANDS.items() if place.module == "queries"
    }


# --- what it costs ---------------------------------------------------------------------------


def test_the_demo_does_not_wait_for_what_only_services_need() -> None:
    assert imported_by("demo") & HEAVY == set()


def test_help_waits_for_no_command() -> None:
    assert imported_by("--help") & (HEAVY | {"pydantic", "rich", "yaml", "asyncio"}) == set()


def test_a_command_that_asks_imports_no_server() -> None:
    assert imported_by("status", "--help") & (HEAVY - {"httpx"}) == set()


# --- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["click.core", "pydantic.main", "structlog"])
def test_ctrl_c_during_imports_is_one_line_and_130(at: str) -> None:
    timed = [sys.executable, "-X", "importtime", "-m", "skillq_cli", "demo"]
    with subprocess.Popen(
        timed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        while not running.stderr.readline().endswith(f" {at}\n"):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=10)
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (running.returncode, said) == (130, ["skillq: interrupted"])


# --- streams ---------------------------------------------------------------------------------

FULL = "skillq: cannot go on: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 3, FULL),
        (">/dev/full 2>&-", 3, ""),
    ],
)
@pytest.mark.parametrize("words", ["demo", "demo --json", "--help"])
def test_a_stream_that_is_closed_or_full_is_no_reason_for_a_traceback(
    words: str, shell: str, code: int, said: str, unbuffered: str
) -> None:
    name, *more = words.split()
    program = quick_demo(*more) if name == "demo" else command(name)
    done = subprocess.run(
        ["bash", "-c", f'"$0" "$@" {shell}', *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    assert (done.returncode, done.stderr) == (code, said)
    if words == "demo" and ">&-" not in shell.replace("2>&-", "") and code == 0:
        assert done.stdout.endswith("\nSuccess rate: 100.00%\n")
