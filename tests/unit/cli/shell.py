"""The `skillq` command in this process, or started in another."""

import os
import subprocess
import sys
from collections.abc import Callable

FAST = ("--time-scale", "0.001")


Skillq = Callable[..., tuple[int, str, str]]


def complaint(answer: tuple[int, str, str], code: int = 2) -> str:
    """The one line of an answer that complains, and does nothing else."""
    assert answer[0] == code
    assert not answer[1]
    assert answer[2].count("\n") == 1
    assert answer[2].endswith("\n")
    return answer[2].rstrip("\n")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "skillq_cli", *arguments]


QUICK = (
    "from skillq_cli import tutorial; tutorial.TIME_SCALE = 0.001; "
    "from skillq_cli.__main__ import main; main()"
)


def quick_demo(*arguments: str) -> list[str]:
    """The demo in a process of its own; its tasks take no time."""
    return [sys.executable, "-c", QUICK, "demo", *arguments]


def start(*arguments: str, **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | more,
    )
