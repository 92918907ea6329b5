"""A terminal that lacks characters gets escapes: no command ends with a traceback, and JSON stays JSON."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from skillq.runtime import logs, stdio
from skillq_cli import command as command_line
from skillq_manager.web.server import serve
from tests.support.manager_harness import ApiHarness

EMOJI, ESCAPED = "größe 🦀", "größe \\ud83e\\udd80"
ENCODINGS = ["latin-1", "ascii", "utf-8"]


class Terminal:
    """Runs the command in this process with streams of one encoding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        self._monkeypatch = monkeypatch
        self.encoding = encoding

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command; return its exit status, and what a terminal of the encoding shows."""
        out, err = (io.TextIOWrapper(io.BytesIO(), self.encoding, "strict") for _ in range(2))
        with self._monkeypatch.context() as streams:
            streams.setattr(sys, "stdout", out)
            streams.setattr(sys, "stderr", err)
            streams.setattr(sys, "argv", ["skillq", *arguments])
            stdio.prepare()
            exit_status = command_line.run()
            shown = [_shown(stream) for stream in (out, err)]
        return exit_status, shown[0], shown[1]

    def escaped(self, text: str) -> str:
        """Return a text as the terminal shows it."""
        return "".join(json.dumps(char)[1:-1] if not self._has(char) else char for char in text)

    def _has(self, char: str) -> bool:
        try:
            char.encode(self.encoding)
        except UnicodeEncodeError:
            return False
        return True


def _shown(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding, "replace")


@pytest.fixture(params=ENCODINGS)
def terminal(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tutorial_folder: Path
) -> Terminal:
    return Terminal(monkeypatch, request.param)


@pytest.fixture
async def manager_url(fast_server_stop: None) -> AsyncIterator[str]:
    """The address of a manager with a task, a worker and a result that have an emoji."""
    logs.configure("error", "json")
    async with ApiHarness() as desk, serve(desk.app, "127.0.0.1", 0) as (host, port):
        fields = {"difficulty": 1, "description": EMOJI, "payload": {"text": EMOJI}}
        await desk.submit({"id": "3", **fields})
        await desk.dead_letter_tasks("3")
        await desk.submit({"id": "1", **fields}, {"id": "2", **fields})
        await desk.post("/api/tasks/default/1/cancel", reason=EMOJI)
        await desk.send_unreadable(EMOJI)
        yield f"http://{host}:{port}"
    structlog.reset_defaults()


SHOWN = [
    ("tasks",),
    ("tasks", "--all"),
    ("task", "1"),
    ("explain", "1"),
    ("dead",),
    ("dead", "--parked"),
    ("status",),
    ("runs",),
    ("workers",),
]
WITHOUT_TEXT = {"status", "runs", "workers"}  # they show no text of users but names


@pytest.mark.parametrize("arguments", SHOWN, ids=" ".join)
async def test_a_table_escapes_the_characters_that_the_terminal_lacks(
    terminal: Terminal, manager_url: str, arguments: tuple[str, ...]
) -> None:
    done = await asyncio.to_thread(terminal.run, *arguments, "--api-url", manager_url)
    assert (done[0], done[2]) == (0, "")
    if arguments[0] not in WITHOUT_TEXT and arguments != ("dead",):
        assert terminal.escaped(EMOJI) in done[1]


@pytest.mark.parametrize("arguments", SHOWN, ids=" ".join)
async def test_json_stays_json_where_the_terminal_lacks_characters(
    terminal: Terminal, manager_url: str, arguments: tuple[str, ...]
) -> None:
    done = await asyncio.to_thread(terminal.run, *arguments, "--json", "--api-url", manager_url)
    assert (done[0], done[2]) == (0, "")
    answer = json.dumps(json.loads(done[1]), ensure_ascii=False)
    assert (EMOJI in answer) == (arguments[0] not in WITHOUT_TEXT)


async def test_commands_that_change_tasks_escape_what_the_terminal_lacks(
    terminal: Terminal, manager_url: str
) -> None:
    url = ("--api-url", manager_url)
    for verb in ("cancel", "retry"):
        code, out, err = await asyncio.to_thread(terminal.run, verb, f"default/{EMOJI}", "2", *url)
        assert code == 1
        assert "1 task" in out
        assert terminal.escaped("🦀") in err
        assert err.count("\n") == 1


def test_the_summary_and_the_progress_of_a_run_are_escaped(
    terminal: Terminal, tutorial_folder: Path
) -> None:
    (tutorial_folder / "emoji.yaml").write_text(
        f"workers: [{{name: {EMOJI}, skill: 5}}]\ntasks: [{{id: 1, difficulty: 1}}]\n", "utf-8"
    )
    code, out, err = terminal.run("run", "emoji.yaml", "--time-scale", "0")
    assert (code, err) == (0, "")
    assert out.count(terminal.escaped(EMOJI)) >= 2
    code, out, _ = terminal.run("run", "emoji.yaml", "--time-scale", "0", "--json")
    assert json.loads(out)["tasks"][0]["worker"] == EMOJI


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"], ["worker", "--help"]])
def test_help_is_shown_by_any_terminal(terminal: Terminal, arguments: list[str]) -> None:
    code, out, err = terminal.run(*arguments)
    assert (code, err) == (0, "")
    assert "Usage: skillq" in out


def test_an_error_that_quotes_a_user_is_one_line(terminal: Terminal) -> None:
    code, out, err = terminal.run("submit", f"{EMOJI}.yaml")
    assert (code, out) == (2, "")
    assert terminal.escaped("🦀") in err
    assert err.count("\n") == 1


def test_a_log_record_is_written_whole(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for log_format in ("console", "json"):
        err = io.TextIOWrapper(io.BytesIO(), terminal.encoding, "strict")
        monkeypatch.setattr(sys, "stderr", err)
        stdio.prepare()
        logs.configure("info", log_format)
        structlog.get_logger().info(logs.Log.STARTED, worker=EMOJI)
        structlog.reset_defaults()
        line = _shown(err)
        assert "started" in line
        assert "\\ud83e\\udd80" in line or terminal.encoding == "utf-8"


PROCESSES = {
    "skillq": ["-m", "skillq_cli", "submit", f"{EMOJI}.yaml"],
    "skillq manager": ["-m", "skillq_manager"],
    "skillq worker": ["-m", "skillq_worker", f"{EMOJI}:handlers"],
}


@pytest.mark.parametrize("name", PROCESSES)
def test_each_process_has_streams_that_escape(name: str, tutorial_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, *PROCESSES[name]],
        capture_output=True,
        check=False,
        timeout=30,
        env=os.environ
        | {"PYTHONIOENCODING": "latin-1:strict", "SKILLQ_LOG_LEVEL": EMOJI}
        | ({} if name == "skillq manager" else {"SKILLQ_LOG_LEVEL": "info"}),
    )
    lines = done.stderr.decode("latin-1").splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, b"", 1)
    assert lines[0].startswith(f"{name}: ")
    assert ESCAPED in lines[0]


def test_a_stream_that_is_no_text_stream_of_python_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    stdio.prepare()
    assert sys.stdout is stream


@pytest.mark.parametrize(
    "arguments",
    [("task", "\udcff"), ("tasks", "--run", "\udcff"), ("cancel", "a", "--reason", "\udcff")],
)
def test_an_argument_that_is_no_text_is_one_line(
    terminal: Terminal, arguments: tuple[str, ...]
) -> None:
    code, out, err = terminal.run(*arguments)
    assert (code, out) == (2, "")
    assert err == "skillq: an argument of the command is no UTF-8 text\n"
