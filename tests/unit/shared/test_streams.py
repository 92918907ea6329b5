"""Standard output and error as a shell leaves them: closed, cut off, on a disk that is full."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skillq.runtime import stdio


def python(code: str, shell: str = "") -> str:
    """What a process that was started with these streams has to say in a file."""
    subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, code], check=True, timeout=30
    )
    return Path("said").read_text()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_closed_swallows_what_is_written_and_no_file_takes_its_place() -> None:
    code = (
        "from skillq.runtime import stdio; stdio.replace_closed(); import sys\n"
        "print('lost'); print('lost', file=sys.stderr); stdio.write_out('lost')\n"
        "file = open('said', 'w'); file.write(str((file.fileno() > 2, sys.stdin.read())))"
    )
    assert python(code, "<&- >&- 2>&-") == "(True, '')"


def test_what_cannot_be_written_now_is_not_kept_for_later() -> None:
    code = (
        "from skillq.runtime import stdio\n"
        "try: stdio.write_out('lost\\n')\n"
        "except OSError as error: open('said', 'w').write(error.strerror)"
    )
    assert python(code, ">/dev/full") == "No space left on device"  # and it has ended well


def test_what_is_written_is_whole_whatever_the_locale_can_say(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "größe 🦀 \ud800\n" + "x" * 1_000_000
    stdio.write_out(text)
    assert capfd.readouterr().out == text.replace("\ud800", r"\ud800")
    assert sys.stdout.write("still there") == 11


def test_an_open_stream_is_left_as_it_is() -> None:
    before = (sys.stdin, sys.stdout, sys.stderr, os.fstat(1))
    stdio.replace_closed()
    assert (sys.stdin, sys.stdout, sys.stderr, os.fstat(1)) == before
