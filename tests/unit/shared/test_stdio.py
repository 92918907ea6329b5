"""Standard streams may be closed, broken or on a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skillq.runtime import stdio


def run_python(code: str, shell: str = "") -> str:
    """Run code with these redirections; return the text that it writes into `report`."""
    subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, code], check=True, timeout=30
    )
    return Path("report").read_text()


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_closed_streams_are_replaced_and_opened_files_do_not_take_their_numbers() -> None:
    code = (
        "from skillq.runtime import stdio; stdio.replace_closed(); import sys\n"
        "print('lost'); print('lost', file=sys.stderr); stdio.write_out('lost')\n"
        "file = open('report', 'w'); file.write(str((file.fileno() > 2, sys.stdin.read())))"
    )
    assert run_python(code, "<&- >&- 2>&-") == "(True, '')"


def test_text_that_cannot_be_written_is_not_buffered_for_later() -> None:
    code = (
        "from skillq.runtime import stdio\n"
        "try: stdio.write_out('lost\\n')\n"
        "except OSError as error: open('report', 'w').write(error.strerror)"
    )
    assert run_python(code, ">/dev/full") == "No space left on device"  # and the exit status is 0


def test_all_text_is_written_whatever_the_encoding_of_the_locale(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "größe 🦀 \ud800\n" + "x" * 1_000_000
    stdio.write_out(text)
    assert capfd.readouterr().out == text.replace("\ud800", r"\ud800")
    assert sys.stdout.write("still there") == 11


def test_open_streams_are_not_replaced() -> None:
    before = (sys.stdin, sys.stdout, sys.stderr, os.fstat(1))
    stdio.replace_closed()
    assert (sys.stdin, sys.stdout, sys.stderr, os.fstat(1)) == before
