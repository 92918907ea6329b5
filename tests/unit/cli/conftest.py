"""Fixtures: a folder with the tutorial, the `skillq` command, a server that stops fast."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from skillq_cli import command as command_line
from tests.support.cli_runner import RunCli

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


@pytest.fixture
def tutorial_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SKILLQ_")]:
        monkeypatch.delenv(name)
    (tmp_path / "tutorial.yaml").write_text(TUTORIAL)
    return tmp_path


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Run the command in this process; return its exit status, output and error output."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["skillq", *arguments])
        exit_status = command_line.run()
        out, err = capsys.readouterr()
        return exit_status, out, err

    return run


class _AsyncioWithShortSleeps:
    """The module asyncio with sleeps of at most 2 ms."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.002))


@pytest.fixture
def fast_server_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an HTTP server notice a stop within 2 ms instead of 100 ms."""
    monkeypatch.setattr("uvicorn.server.asyncio", _AsyncioWithShortSleeps())
