"""Log events have fields; they are text on a terminal and JSON elsewhere."""

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from skillq.runtime import logs


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in ("aio_pika", "aiormq", "asyncio")}
    yield
    structlog.reset_defaults()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_off_a_terminal_an_event_is_one_line_of_json_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", None)
    structlog.get_logger().info(logs.Log.TASK_ENDED, task=("run", "1"), worker="Jürgen\n\x1b[31m")
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert "\x1b" not in err
    entry = json.loads(err)
    assert (entry["event"], entry["level"], entry["task"]) == ("task_ended", "info", ["run", "1"])
    assert entry["timestamp"].endswith("Z")


def test_events_below_the_level_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json")
    structlog.get_logger().info(logs.Log.STARTED)
    structlog.get_logger().warning(logs.Log.STOPPED)
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "stopped"
    ]


def test_in_console_format_an_event_is_a_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console")
    structlog.get_logger().info(logs.Log.STARTED, worker="Ada")
    line = capsys.readouterr().err
    assert "started" in line
    assert "worker=Ada" in line
    assert "{" not in line


def test_log_records_of_the_driver_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json")
    logging.getLogger("aiormq.connection").error("a traceback")
    assert not capsys.readouterr().err


def test_an_unwritable_log_does_not_stop_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for descriptor in (writing, os.open("/dev/full", os.O_WRONLY)):
        with io.FileIO(descriptor, "w") as raw:
            monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, write_through=True))
            logs.configure("info", "json")
            structlog.get_logger().info(logs.Log.STARTED)
