"""A folder with the tutorial in it, and the `skillq` command there."""

import os
import sys
from pathlib import Path

import pytest

from skillq_cli import command as command_line
from tests.unit.cli.shell import Skillq

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
