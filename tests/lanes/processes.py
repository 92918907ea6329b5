"""A lane runs commands one after another, in a process group that can be ended as a whole."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread, Timer
from uuid import uuid4

from tests.lanes.results import FAILED, Result, read_results

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 60.0  # for a lane to stop its servers after it was interrupted
MARK_VARIABLE = "SKILLQ_TEST_LANE"  # in the environment of all processes of a lane
# Lanes run at the same time: they would overwrite each other's cache, and a test that computes for half a
# minute alone may take several. The limit is there for tests that hang.
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=240")


@dataclass(frozen=True)
class Plan:
    """The calls of pytest that a lane makes, each as its arguments."""

    name: str
    calls: tuple[tuple[str, ...], ...]
    niceness: int = 0
    seconds: float = 1800.0  # for all calls together


@dataclass
class Lane:
    """Runs the calls of a plan in a thread, and keeps their results."""

    plan: Plan
    folder: Path  # for its log and its results
    results: dict[str, Result] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.log = self.folder / f"{self.plan.name}.log"
        self._thread = Thread(target=self._run, name=self.plan.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        self._lock = Lock()  # so that no command starts after `stop`
        self._mark = uuid4().hex

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self, reason: str) -> None:
        """Interrupt the running command as Ctrl-C does, and start no further command."""
        with self._lock:
            if self._is_stopping:
                return
            self._is_stopping = True
            self.complaints.append(reason)
            if self._process is not None:
                self._signal(signal.SIGINT)
                killer = Timer(STOP_SECONDS, self._signal, (signal.SIGKILL,))
                killer.daemon = True
                killer.start()

    def _signal(self, number: signal.Signals) -> None:
        # The first process of the group may have ended while its children run.
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _run(self) -> None:
        start = time.monotonic()
        limit = Timer(self.plan.seconds, self.stop, (f"not done in {self.plan.seconds:g} s",))
        limit.start()
        with self.log.open("wb") as log:
            for number, arguments in enumerate(self.plan.calls):
                file = self.folder / f"{self.plan.name}-{number}.jsonl"
                file.unlink(missing_ok=True)
                log.write(f"$ pytest {' '.join(arguments)}\n".encode())
                log.flush()
                if not self._start((*PYTEST, *arguments, f"--results={file}"), log.fileno()):
                    break
                self._finish(arguments, file)
        limit.cancel()
        if self._is_stopping:
            kill_marked(self._mark)
        self.seconds = time.monotonic() - start

    def _start(self, command: tuple[str, ...], log: int) -> bool:
        with self._lock:
            if self._is_stopping:
                return False
            self._process = subprocess.Popen(
                ["nice", "-n", str(self.plan.niceness), *command],
                cwd=ROOT,
                env=os.environ | {MARK_VARIABLE: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return True

    def _finish(self, arguments: tuple[str, ...], file: Path) -> None:
        """Wait for a command; add its results and its complaints."""
        assert self._process is not None
        _, status, usage = os.wait4(self._process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        with self._lock:
            self._process.returncode = code  # `wait4` has collected the process
            self._process = None
        self.cpu_seconds += usage.ru_utime + usage.ru_stime
        found = read_results(file)
        self.complaints += find_complaints(code, found, arguments)
        for id, result in found.items():
            if id in self.results:
                self.complaints.append(f"{id} ran twice")
            self.results[id] = result


def kill_marked(mark: str) -> None:
    """Kill processes that an interrupted lane has left, as servers of a killed worker."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended or belongs to another user
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def find_complaints(code: int, found: dict[str, Result], arguments: tuple[str, ...]) -> list[str]:
    """Return the reasons why an ended call of pytest counts as failed."""
    call = f"pytest {' '.join(arguments)}"
    if not found:
        return [f"{call} ran no test (exit status {code})"]
    failed = sum(result.outcome == FAILED for result in found.values())
    if failed:
        return [f"{failed} tests of it failed"]
    # For example: coverage too low, a crashed worker, an error of pytest itself.
    return [f"{call} ended with exit status {code}"] if code else []
