"""The progress display during a run."""

import io
import re

import pytest
from rich.console import Console

from skillq.messages import TaskEvent, TaskStatus
from skillq_cli import progress as module
from skillq_cli.progress import progress


def event(id: str, status: str, **more: object) -> TaskEvent:
    fields = {"id": id, "status": status, "attempt": 1, "at": 0}
    return TaskEvent.model_validate(fields | more)


def test_without_a_terminal_each_assignment_and_each_end_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress(3, quiet=False) as display:
        for one in (
            event("1", "ready"),
            event("1", "assigned", worker="Ada\x1b[31m"),
            event("1", "running", worker="Ada"),
            event("1", "ready", reason="OSError: not yet"),
            event("1", "succeeded", worker="Ada"),
            event("2", "failed", worker="Ada", reason="two\nlines"),
        ):
            display.on_event(one)
    assert capsys.readouterr().out.splitlines() == [
        r"task 1: assigned to Ada\x1b[31m",
        "task 1: to be retried (OSError: not yet)",
        "task 1: succeeded",
        r"task 2: failed (two\nlines)",
    ]


def test_for_many_tasks_a_line_is_printed_for_each_tenth_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress(1000, quiet=False) as display:
        for n in range(1000):
            display.on_event(event(str(n), "assigned", worker="Ada"))
            display.on_event(event(str(n), "succeeded", worker="Ada"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "1000 of 1000 tasks have ended"


def test_in_quiet_mode_no_progress_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(1, quiet=True) as display:
        display.on_event(event("1", "succeeded", worker="Ada"))
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_the_display_shows_workers_tasks_and_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(module, "Console", lambda: console)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with progress(3, quiet=False) as display:
        display.on_event(event("1", "assigned", worker="Ada [bold]\x1b[31m"))
        display.on_event(event("1", "running", worker="Ada [bold]\x1b[31m"))
        display.on_event(event("2", "assigned", worker="Bob"))
        display.on_event(event("2", "succeeded", worker="Bob"))
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "1 of 3 ended" in seen
    assert r"Ada [bold]\x1b[31m" in seen
    assert "task 1" in seen
    assert "1 running" in seen
    assert "1 succeeded" in seen


def test_the_statuses_of_all_tasks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(module, "Console", lambda: Console(file=io.StringIO()))
    with progress(2, quiet=False) as display:
        for status in ("ready", "assigned", "running", "ready", "assigned", "failed"):
            display.on_event(event("1", status, worker="Ada"))
        counts = display._counts  # type: ignore[attr-defined]
        assert {s: n for s, n in counts.items() if n} == {TaskStatus.FAILED: 1}
