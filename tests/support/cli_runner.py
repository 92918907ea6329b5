"""Run the `skillq` command in this process or in another one, and check its error line."""

import os
import subprocess
import sys
from collections.abc import Callable

FAST = ("--time-scale", "0.001")


RunCli = Callable[..., tuple[int, str, str]]


def error_line(result: tuple[int, str, str], exit_status: int = 2) -> str:
    """Return the only line on standard error; fail if the command did anything else."""
    assert result[0] == exit_status
    assert not result[1]
    assert result[2].count("\n") == 1
    assert result[2].endswith("\n")
    return result[2].rstrip("\n")


def cli_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "skillq_cli", *arguments]


QUICK_DEMO = (
    "from skillq_cli import tutorial; tutorial.TIME_SCALE = 0.001; "
    "from skillq_cli.__main__ import main; main()"
)


def quick_demo_command(*arguments: str) -> list[str]:
    """Return the command that runs the demo in a process of its own; its tasks take no time."""
    return [sys.executable, "-c", QUICK_DEMO, "demo", *arguments]


def start_cli(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start the command in another process, with these environment variables in addition."""
    return subprocess.Popen(
        cli_command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )
