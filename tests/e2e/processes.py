"""Whole processes that share nothing but a broker."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

SECONDS = 45.0  # generous: the machine may be busy
# Of leases, probes and pauses, in the processes that tests start; 1 lets them wait as long as they do for users.
TIME_SCALE = float(os.environ.get("SKILLQ_TEST_E2E_TIME_SCALE", "0.2"))
# For tests of a promise in seconds, and for those in which real work must outlast or fit into a wait.
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


def until(holds: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


class Process:
    """A process, its standard output and standard error in files that can be read meanwhile."""

    def __init__(
        self, name: str, arguments: Sequence[str], here: Path, environment: dict[str, str]
    ) -> None:
        self.name = name
        self._out, self._err = here / f"{name}.out", here / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=here,
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
        """The events it has logged."""
        lines = self.err.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def logged(self, event: str, **fields: object) -> list[dict[str, Any]]:
        return [
            entry
            for entry in self.log
            if entry["event"] == event and all(entry.get(k) == v for k, v in fields.items())
        ]

    def says(self, event: str, count: int = 1, seconds: float = SECONDS, **fields: object) -> None:
        """Wait until it has logged that."""
        until(
            lambda: len(self.logged(event, **fields)) >= count or self.is_over,
            f"{self.name} should log {event} {fields}",
            seconds,
        )
        assert len(self.logged(event, **fields)) >= count, self.err

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def ask(self, path: str) -> Any:
        """What a manager answers under this path."""
        self.says("http_serving")
        port = self.logged("http_serving")[-1]["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def succeeded(self, run: str) -> int:
        """How many tasks of a run have succeeded; 0 where a manager cannot say."""
        try:
            return int(self.ask(f"/api/runs/{run}")["counts"]["succeeded"])
        except OSError:  # not there yet, or its database is not
            return 0

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """All tasks of a run, as a manager answers."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.ask(f"/api/tasks?run={run}&limit=1000{cursor}")
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ends(self, seconds: float = SECONDS) -> int:
        """Wait for its end; its exit status."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} goes on:\n{self.out}\n{self.err}") from None

    def dies(self) -> None:
        """Wait until a crash point has killed it."""
        assert self.ends() == -signal.SIGKILL, self.err

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        self._process.kill()
        self._process.wait()


class System:
    """The processes of one test; they are gone when it is over."""

    def __init__(self, broker_url: str, here: Path, time_scale: float = TIME_SCALE) -> None:
        self.here = here
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
        process = Process(name, arguments, self.here, self._environment | variables)
        self._started.append(process)
        return process

    def manager(self, **variables: object) -> Process:
        """On `sqlite:///skillq.db`, in this system's own folder, unless `store_url` says otherwise."""
        return self.start("manager", "skillq_manager", **_variables(variables))

    def worker(
        self, worker: str, skill: int = 5, handlers: str = "", **variables: object
    ) -> Process:
        arguments = ["skillq_worker", *([handlers] if handlers else [])]
        given = _variables({"name": worker, "skill": skill} | variables)
        return self.start(f"worker {worker}", *arguments, **given)

    def tiers(self) -> list[Process]:
        tiers = (("Junior", 3), ("Intermediate", 6), ("Senior", 9))
        return [self.worker(name, skill) for name, skill in tiers]

    def skillq(self, *arguments: str) -> Process:
        return self.start("skillq", "skillq_cli", *arguments)

    def submit(self, file: str, *arguments: str) -> Process:
        return self.skillq("submit", file, "--watch", "--json", *arguments)

    def write(self, name: str, text: str) -> str:
        (self.here / name).write_text(text)
        return name


def tasks(count: int, **fields: object) -> str:
    return json.dumps({"tasks": [{"id": n, "difficulty": 1} | fields for n in range(count)]})


def _variables(given: dict[str, object]) -> dict[str, str]:
    return {f"SKILLQ_{name.upper()}": str(value) for name, value in given.items()}


def answer(process: Process, code: int = 0) -> dict[str, Any]:
    """What a watching submitter says at the end."""
    assert process.ends() == code, process.err
    assert not process.err
    answer: dict[str, Any] = json.loads(process.out)
    return answer


def begun(here: Path) -> Counter[str]:
    """How often each task was begun, by what the tests' own handlers left."""
    names = (name.partition(".")[0] for name in executions(here))
    return Counter(name.removeprefix("begun-") for name in names if name.startswith("begun-"))


def executions(here: Path) -> Iterator[str]:
    """The files that the tests' own handlers leave, one an execution."""
    return (path.name for path in (here / "done").iterdir())
