"""Run one contender: its services and its client as processes, on a vhost of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

from benchmarks import machine
from benchmarks.contenders import Contender
from benchmarks.contenders.setting import URL_VARIABLE, VARIANT_VARIABLE
from tests.support.broker import Broker

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
REPLY_SECONDS = 300.0


class Failed(Exception):
    """Raised when a contender does not do what it should; the message has the end of its log."""


class Process:
    def __init__(
        self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str]
    ) -> None:
        self.name = " ".join(arguments)
        self._log = folder / f"{uuid4().hex}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if arguments[0] == "benchmarks.client" else log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def check(self) -> None:
        if self._process.poll() is not None:
            raise Failed(f"{self.name} ended with {self._process.returncode}:\n{self.log}")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def request(self, command: str = "", seconds: float = REPLY_SECONDS) -> Any:
        """Write a command to its input, and return the reply from its output."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise TypeError(f"{self.name} has no input and output")
        if command:
            stdin.write(command + "\n")
            stdin.flush()
        # The process may hang for ever; then its end ends this wait.
        guard = threading.Timer(seconds, self.kill)
        guard.start()
        try:
            reply = stdout.readline()
        finally:
            guard.cancel()
        if not reply:
            raise Failed(f"{self.name} gave no answer to {command!r}:\n{self.log}")
        return json.loads(reply)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and its children; all measurements are done."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Running:
    """A running contender; `request` sends a command to its client."""

    def __init__(
        self,
        broker: Broker,
        url: str,
        start: Callable[..., Process],
        services: list[Process],
        client: Process,
    ) -> None:
        self.url = url
        self.broker = broker
        self.start = start  # starts another process with these arguments
        self.services = services
        self._client = client
        self._broker_pid = machine.listener(broker.port)
        self._database_pid: int | None = None

    def watch_database(self, url: str) -> Self:
        self._database_pid = machine.listener(urlsplit(url).port or 5432)
        return self

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in (*self.services, self._client)]

    def request(self, command: str) -> Any:
        reply = self._client.request(command)
        for process in self.services:
            process.check()
        return reply

    def cpu(self) -> dict[str, float | None]:
        """Return the CPU seconds so far of the contender, the broker and the database."""
        broker, database = self._broker_pid, self._database_pid
        return {
            "app": machine.cpu_seconds(self.pids),
            "broker": None if broker is None else machine.cpu_seconds([broker]),
            "database": None if database is None else machine.cpu_seconds([database]),
        }

    def peak_mib(self) -> float:
        return machine.peak_mib(self.pids)


@contextmanager
def running(
    contender: Contender, broker: Broker, more_environment: dict[str, str] | None = None
) -> Iterator[Running]:
    """Start a contender, wait until its workers consume, and yield it.

    `more_environment` has further environment variables for all processes of the contender.
    """
    with ExitStack() as stack:
        url = stack.enter_context(broker.vhost())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillq-bench-")))
        environment = os.environ | {
            URL_VARIABLE: url,
            VARIANT_VARIABLE: contender.variant,
            "SKILLQ_BROKER_URL": url,
            "SKILLQ_STORE_URL": f"sqlite:///{folder}/skillq.db",
            "SKILLQ_LOG_LEVEL": "warning",
            "PYTHONPATH": str(ROOT),
            **(more_environment or {}),
        }

        def start(*arguments: str) -> Process:
            process = Process(arguments, folder, environment)
            stack.callback(process.kill)
            return process

        services = [start(*arguments) for arguments in contender.services]
        client = start("benchmarks.client", contender.module)
        client.request(seconds=START_SECONDS)
        _wait_for_consumers(broker, url, contender, services)
        yield Running(broker, url, start, services, client)


def _wait_for_consumers(
    broker: Broker, url: str, contender: Contender, services: list[Process]
) -> None:
    vhost = urlsplit(url).path[1:]
    give_up_at = time.monotonic() + START_SECONDS
    while len(broker.request("GET", f"/consumers/{vhost}")) < contender.consumers:
        for process in services:
            process.check()
        if time.monotonic() > give_up_at:
            logs = "\n".join(process.log for process in services)
            raise Failed(f"{contender.title}: its workers do not consume:\n{logs}")
        time.sleep(0.1)
