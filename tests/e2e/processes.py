"""Start managers, workers and clients as processes that share only a broker."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.waiting import WAIT_SECONDS, until

# The factor for leases, probes and pauses of the processes; 1 gives the durations that users have.
TIME_SCALE = float(os.environ.get("SKILLQ_TEST_E2E_TIME_SCALE", "0.2"))
# For tests of a promise in seconds, and for tests whose work must take longer or shorter than a wait.
real_durations = pytest.mark.parametrize("time_scale", [1.0], ids=["real durations"])

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
SUMMARY = [
    "All tasks completed",
    "Task 1 assigned to Junior - Success",
    "Task 2 assigned to Intermediate - Success",
    "Task 3 assigned to Senior - Success",
    "Success rate: 100.00%",
]


class Process:
    """A process whose standard output and standard error are files that can be read while it runs."""

    def __init__(
        self, name: str, arguments: Sequence[str], folder: Path, environment: dict[str, str]
    ) -> None:
        self.name = name
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Return the events that the process has logged."""
        lines = self.err.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def logged(self, event: str, **fields: object) -> list[dict[str, Any]]:
        return [
            entry
            for entry in self.log
            if entry["event"] == event and all(entry.get(k) == v for k, v in fields.items())
        ]

    def wait_for_log(
        self, event: str, count: int = 1, seconds: float = WAIT_SECONDS, **fields: object
    ) -> None:
        """Wait until the process has logged this event `count` times with these fields."""
        until(
            lambda: len(self.logged(event, **fields)) >= count or self.has_exited,
            f"{self.name} should log {event} {fields}",
            seconds,
        )
        assert len(self.logged(event, **fields)) >= count, self.err

    @property
    def has_exited(self) -> bool:
        return self._process.poll() is not None

    def get_json(self, path: str) -> Any:
        """Return the JSON that a manager serves under this path."""
        self.wait_for_log("http_serving")
        port = self.logged("http_serving")[-1]["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return json.loads(response.read())

    def succeeded_count(self, run: str) -> int:
        """Return how many tasks of a run have succeeded, or 0 if the manager cannot be asked."""
        try:
            return int(self.get_json(f"/api/runs/{run}")["counts"]["succeeded"])
        except OSError:  # the manager or its database cannot be reached yet
            return 0

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Return all tasks of a run, as a manager shows them."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.get_json(f"/api/tasks?run={run}&limit=1000{cursor}")
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait_for_exit(self, seconds: float = WAIT_SECONDS) -> int:
        """Wait until the process ends; return its exit status."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs:\n{self.out}\n{self.err}") from None

    def wait_for_crash(self) -> None:
        """Wait until a crash point has killed the process."""
        assert self.wait_for_exit() == -signal.SIGKILL, self.err

    def kill(self) -> None:
        """Kill the process at once, as if the machine lost its power."""
        self._process.kill()
        self._process.wait()


class System:
    """The processes of one test. They are killed at its end."""

    def __init__(self, broker_url: str, folder: Path, time_scale: float = TIME_SCALE) -> None:
        self.folder = folder
        self.broker_url = broker_url
        self._started: list[Process] = []
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("SKILLQ_")} | {
            "SKILLQ_BROKER_URL": broker_url,
            "SKILLQ_HTTP_PORT": "0",
            "SKILLQ_LOG_FORMAT": "json",
            "SKILLQ_LOG_LEVEL": "debug",
            "SKILLQ_TIME_SCALE": "0.01",
            "SKILLQ_CONNECT_TIMEOUT": "30",
            "SKILLQ_TEST_TIME_SCALE": str(time_scale),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            process.kill()
        if error is not None:
            for process in self._started:
                sys.stderr.write(f"--- {process.name}\n{process.out}{process.err[-4000:]}\n")

    def start(self, name: str, *arguments: str, **variables: str) -> Process:
        name = f"{len(self._started)}-{re.sub('[^a-z0-9]+', '-', name.lower())}"
        process = Process(name, arguments, self.folder, self._environment | variables)
        self._started.append(process)
        return process

    def start_manager(self, **variables: object) -> Process:
        """Start a manager on `sqlite:///skillq.db` in the folder of the system, or on `store_url`."""
        return self.start("manager", "skillq_manager", **_variables(variables))

    def start_worker(
        self, worker: str, skill: int = 5, handlers: str = "", **variables: object
    ) -> Process:
        arguments = ["skillq_worker", *([handlers] if handlers else [])]
        given = _variables({"name": worker, "skill": skill} | variables)
        return self.start(f"worker {worker}", *arguments, **given)

    def start_tutorial_workers(self) -> list[Process]:
        tiers = (("Junior", 3), ("Intermediate", 6), ("Senior", 9))
        return [self.start_worker(name, skill) for name, skill in tiers]

    def start_cli(self, *arguments: str) -> Process:
        return self.start("skillq", "skillq_cli", *arguments)

    def start_watching_submit(self, file: str, *arguments: str) -> Process:
        return self.start_cli("submit", file, "--watch", "--json", *arguments)

    def write_file(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name


def tasks_file(count: int, **fields: object) -> str:
    return json.dumps({"tasks": [{"id": n, "difficulty": 1} | fields for n in range(count)]})


def _variables(given: dict[str, object]) -> dict[str, str]:
    return {f"SKILLQ_{name.upper()}": str(value) for name, value in given.items()}


def wait_for_result(process: Process, code: int = 0) -> dict[str, Any]:
    """Wait for `submit --watch --json` to exit with `code`; return the result that it prints."""
    assert process.wait_for_exit() == code, process.err
    assert not process.err
    result: dict[str, Any] = json.loads(process.out)
    return result


def start_counts(folder: Path) -> Counter[str]:
    """Return how often each task was started, counted from the files of the tests' handlers."""
    names = (name.partition(".")[0] for name in execution_files(folder))
    return Counter(name.removeprefix("started-") for name in names if name.startswith("started-"))


def execution_files(folder: Path) -> Iterator[str]:
    """Yield the names of the files that the tests' handlers write, one for each execution."""
    return (path.name for path in (folder / "done").iterdir())
