"""One contender at a time: its services and its client as processes, on a vhost of its own."""

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
ANSWER_SECONDS = 300.0


class Failed(Exception):
    """Raised when a contender does not do what it should; it says which, and the end of its log."""


class Process:
    def __init__(self, arguments: tuple[str, ...], here: Path, environment: dict[str, str]) -> None:
        self.name = " ".join(arguments)
        self._log = here / f"{uuid4().hex}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=here,
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

    def ask(self, question: str = "", seconds: float = ANSWER_SECONDS) -> Any:
        """One line to its input, one from its output."""
        into, out = self._process.stdin, self._process.stdout
        if into is None or out is None:
            raise TypeError(f"{self.name} is nobody to ask")
        if question:
            into.write(question + "\n")
            into.flush()
        # It may hang for ever; its end ends our wait.
        guard = threading.Timer(seconds, self.kill)
        guard.start()
        try:
            answer = out.readline()
        finally:
            guard.cancel()
        if not answer:
            raise Failed(f"{self.name} gave no answer to {question!r}:\n{self.log}")
        return json.loads(answer)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """With all that it started; what there was to measure has been."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Running:
    """A contender that is up. `ask` puts its client to work."""

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
        self.start = start  # another process, with these arguments
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

    def ask(self, question: str) -> Any:
        answer = self._client.ask(question)
        for process in self.services:
            process.check()
        return answer

    def cpu(self) -> dict[str, float | None]:
        """CPU seconds up to now: of the contender's processes, of the broker, of the database."""
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
    contender: Contender, broker: Broker, more: dict[str, str] | None = None
) -> Iterator[Running]:
    """Start it; go on when its workers consume. `more` is environment for all its processes."""
    with ExitStack() as stack:
        url = stack.enter_context(broker.vhost())
        here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillq-bench-")))
        environment = os.environ | {
            URL_VARIABLE: url,
            VARIANT_VARIABLE: contender.variant,
            "SKILLQ_BROKER_URL": url,
            "SKILLQ_STORE_URL": f"sqlite:///{here}/skillq.db",
            "SKILLQ_LOG_LEVEL": "warning",
            "PYTHONPATH": str(ROOT),
            **(more or {}),
        }

        def start(*arguments: str) -> Process:
            process = Process(arguments, here, environment)
            stack.callback(process.kill)
            return process

        services = [start(*arguments) for arguments in contender.services]
        client = start("benchmarks.client", contender.module)
        client.ask(seconds=START_SECONDS)
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
