"""Run managers and workers behind proxies, inject faults, and restart processes that have died."""

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError

from tests.chaos.faults import Fault, FaultKind
from tests.chaos.task_stream import RUN, TaskStream
from tests.e2e.broker_faults import BrokerFaults
from tests.e2e.processes import Process, System
from tests.e2e.proxy import Proxy

TICK_SECONDS = 0.1


class ChaosSystem:
    def __init__(
        self,
        system: System,
        broker_faults: BrokerFaults,
        broker_url: str,
        store_url: str,
        *,
        managers: list[str],
        workers: list[str],
        seed: int,
    ) -> None:
        self._system = system
        self._broker_faults = broker_faults
        self._broker_url = broker_url
        self._store_url = store_url
        self.managers, self.workers = managers, workers
        self._seed = seed
        self._proxies: dict[str, Proxy] = {}
        self._running: dict[str, Process] = {}
        self._down_until: dict[str, float] = {}
        self._stack = ExitStack()
        self._jobs: list[Future[None]] = []
        self.all_processes: list[Process] = []
        # processes that no fault has ended, with exit status and error
        self.unexpected_exits: list[str] = []

    def __enter__(self) -> Self:
        for name in (*self.managers, *self.workers, "stream"):
            self._proxies[name] = self._stack.enter_context(Proxy(self._broker_url))
        self._fault_threads = self._stack.enter_context(ThreadPoolExecutor(4))
        # One thread for the broker: its next fault waits until the broker has started again.
        self._broker_fault_thread = self._stack.enter_context(ThreadPoolExecutor(1))
        self.stream = TaskStream(self._proxies["stream"].url, self._seed)
        for name in (*self.managers, *self.workers):
            self._start(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self, name: str) -> None:
        # A process that starts during an outage of the broker must not give up, even on a busy machine.
        settings: dict[str, Any] = {"broker_url": self._proxies[name].url, "connect_timeout": 120}
        if name in self.managers:
            process = self._system.start_manager(store_url=self._store_url, **settings)
        else:
            process = self._system.start_worker(
                name, 5, "chaos_tasks:handlers", slots=2, **settings
            )
        self._running[name] = process
        self.all_processes.append(process)

    # --- faults

    def inject(self, faults: list[Fault], seconds: float) -> None:
        """Start and end each fault at its time; return when `seconds` are over and all faults have ended."""
        began = monotonic()
        due = sorted(
            [(fault.at, fault.target, self._start_of(fault)) for fault in faults]
            + [(fault.at + fault.seconds, fault.target, self._end_of(fault)) for fault in faults],
            key=lambda step: step[0],
        )
        while due or monotonic() - began < seconds:
            while due and due[0][0] <= monotonic() - began:
                _, target, action = due.pop(0)
                threads = self._broker_fault_thread if target == "broker" else self._fault_threads
                self._jobs.append(threads.submit(action))
            self.restart_exited()
        for job in self._jobs:
            job.result(300)

    def restart_exited(self) -> None:
        """Wait a moment, then start the processes again that have exited."""
        sleep(TICK_SECONDS)
        for name, process in list(self._running.items()):
            if process.has_exited and self._down_until.get(name, 0.0) <= monotonic():
                if (code := process.wait_for_exit()) != -signal.SIGKILL:
                    self.unexpected_exits.append(f"{name} ended with {code}: {process.err[-300:]}")
                self._start(name)

    def _start_of(self, fault: Fault) -> Callable[[], None]:
        name = fault.target
        proxy = self._proxies.get(name)

        def kill() -> None:
            self._down_until[name] = monotonic() + fault.seconds
            self._running[name].kill()

        def stop() -> None:
            self._running[name].signal(signal.SIGSTOP)

        if name == "broker":
            return {
                FaultKind.KILL: self._broker_faults.kill,
                FaultKind.FREEZE: self._broker_faults.freeze,
                FaultKind.ALARM: lambda: self._broker_faults.alarm(on=True),
            }[fault.kind]
        assert proxy is not None
        return {
            FaultKind.KILL: kill,
            FaultKind.STOP: stop,
            FaultKind.CUT: proxy.cut,
            FaultKind.HALF_OPEN: proxy.make_half_open,
        }[fault.kind]

    def _end_of(self, fault: Fault) -> Callable[[], None]:
        name = fault.target
        proxy = self._proxies.get(name)

        def nothing() -> None: ...

        def resume() -> None:
            self._running[name].signal(signal.SIGCONT)

        if name == "broker":
            return {
                FaultKind.KILL: self._broker_faults.start,
                FaultKind.FREEZE: self._broker_faults.thaw,
                FaultKind.ALARM: lambda: self._broker_faults.alarm(on=False),
            }[fault.kind]
        assert proxy is not None
        return {
            FaultKind.KILL: nothing,
            FaultKind.STOP: resume,
            FaultKind.CUT: nothing,
            FaultKind.HALF_OPEN: proxy.heal,
        }[fault.kind]

    # --- queries

    def get_json(self, path: str) -> Any:
        """Return the JSON that the first reachable manager serves; None if no manager can be reached."""
        for name in self.managers:
            process = self._running[name]
            if process.logged("http_serving") and not process.has_exited:
                try:
                    return process.get_json(path)
                except (URLError, OSError, AssertionError):
                    continue
        return None

    def counts(self) -> dict[str, int]:
        view = self.get_json(f"/api/runs/{RUN}")
        return view["counts"] if view else {}

    def tasks(self) -> list[dict[str, Any]]:
        leader = next(
            self._running[name] for name in self.managers if not self._running[name].has_exited
        )
        return leader.tasks(RUN)
