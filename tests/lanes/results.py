"""Results of tests as JSON lines in a file, from pytest to the lane that started it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.lanes.selection import plain_id

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Recorder:
    """A pytest plugin that writes the ids of collected tests, or the outcome of each phase."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            for item in session.items:
                self._write(id=plain_id(item.nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(id=plain_id(report.nodeid), outcome=report.outcome, seconds=report.duration)

    def pytest_unconfigure(self) -> None:
        self._file.close()

    def _write(self, **fields: object) -> None:
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()  # so that the lines of a crashed process are kept


@dataclass
class Result:
    """The outcome and the seconds of one test over its phases: set-up, call, tear-down."""

    outcome: str = PASSED
    seconds: float = 0.0

    def add(self, outcome: str, seconds: float) -> None:
        self.seconds += seconds
        if FAILED not in (self.outcome, outcome):
            self.outcome = SKIPPED if SKIPPED in (self.outcome, outcome) else PASSED
        else:
            self.outcome = FAILED


def read_ids(file: Path) -> list[str]:
    """Return the ids of collected tests."""
    return [line["id"] for line in _lines(file)]


def read_results(file: Path) -> dict[str, Result]:
    """Return the result of each test, under its id."""
    return merge((line["id"], line["outcome"], line["seconds"]) for line in _lines(file))


def merge(phases: Iterable[tuple[str, str, float]]) -> dict[str, Result]:
    results: dict[str, Result] = {}
    for id, outcome, seconds in phases:
        results.setdefault(id, Result()).add(outcome, seconds)
    return results


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        for line in file.read_text().splitlines():
            yield json.loads(line)
