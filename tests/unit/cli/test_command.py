"""The command line as a whole: its help, its imports, and its streams."""

import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from skillq_cli import queries
from skillq_cli.command import COMMANDS, cli, load
from tests.support.cli_runner import cli_command, quick_demo_command

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


def imported_packages(*arguments: str) -> set[str]:
    """Run a command, and return the packages that it imports from start to end."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "skillq_cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return {found[1] for found in re.finditer(r"\| +(\w+)", done.stderr)}


# --- help ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=str)
def test_help_lists_every_command_with_what_it_does(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help[:30])}", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_in_the_list_is_the_first_line_of_the_command_s_own_help(name: str) -> None:
    loaded = load(name)
    assert loaded.name == name
    assert (loaded.help or "").startswith(COMMANDS[name].help.removesuffix("."))


def test_every_command_of_the_module_queries_is_listed() -> None:
    assert {one.name for one in queries.COMMANDS} == {
        name for name, entry in COMMANDS.items() if entry.module == "queries"
    }


# --- imports ---------------------------------------------------------------------------------


def test_the_demo_imports_no_package_that_only_services_need() -> None:
    assert imported_packages("demo") & HEAVY == set()


def test_help_imports_no_command() -> None:
    assert imported_packages("--help") & (HEAVY | {"pydantic", "rich", "yaml", "asyncio"}) == set()


def test_a_query_command_imports_no_server() -> None:
    assert imported_packages("status", "--help") & (HEAVY - {"httpx"}) == set()


# --- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["click.core", "pydantic.main", "structlog"])
def test_ctrl_c_during_imports_ends_with_one_line_and_exit_status_130(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "skillq_cli", "demo"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        while not running.stderr.readline().endswith(f" {module}\n"):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=10)
    error = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (running.returncode, error) == (130, ["skillq: interrupted"])


# --- streams ---------------------------------------------------------------------------------

DISK_FULL = "skillq: cannot go on: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirections", "exit_status", "error"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 3, DISK_FULL),
        (">/dev/full 2>&-", 3, ""),
    ],
)
@pytest.mark.parametrize("arguments", ["demo", "demo --json", "--help"])
def test_a_closed_or_full_stream_causes_no_traceback(
    arguments: str, redirections: str, exit_status: int, error: str, unbuffered: str
) -> None:
    name, *more = arguments.split()
    program = quick_demo_command(*more) if name == "demo" else cli_command(name)
    done = subprocess.run(
        ["bash", "-c", f'"$0" "$@" {redirections}', *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    assert (done.returncode, done.stderr) == (exit_status, error)
    if arguments == "demo" and ">&-" not in redirections.replace("2>&-", "") and exit_status == 0:
        assert done.stdout.endswith("\nSuccess rate: 100.00%\n")
