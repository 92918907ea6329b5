"""The processes under chaos: each behind a proxy of its own, started again whenever it dies."""

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError

from tests.chaos.faults import Fault, Kind
from tests.chaos.stream import RUN, Stream
from tests.e2e.processes import Process, System
from tests.e2e.proxy import Proxy
from tests.e2e.wreck import Wreck

TICK_SECONDS = 0.1


class Fleet:
    def __init__(
        self,
        system: System,
        wreck: Wreck,
        broker_url: str,
        store_url: str,
        *,
        managers: list[str],
        workers: list[str],
        seed: int,
    ) -> None:
        self._system = system
        self._wreck = wreck
        self._broker_url = broker_url
        self._store_url = store_url
        self.managers, self.workers = managers, workers
        self._seed = seed
        self._proxies: dict[str, Proxy] = {}
        self._running: dict[str, Process] = {}
        self._down_until: dict[str, float] = {}
        self._stack = ExitStack()
        self._jobs: list[Future[None]] = []
        self.ever: list[Process] = []
        self.left: list[str] = []  # who ended by itself, and how

    def __enter__(self) -> Self:
        for name in (*self.managers, *self.workers, "stream"):
            self._proxies[name] = self._stack.enter_context(Proxy(self._broker_url))
        self._hands = self._stack.enter_context(ThreadPoolExecutor(4))
        # One thread for the broker: on a slow machine, the next fault waits until it has started again.
        self._broker_hand = self._stack.enter_context(ThreadPoolExecutor(1))
        self.stream = Stream(self._proxies["stream"].url, self._seed)
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
        # Patient: who begins while the broker is away, on a busy machine, must not give up.
        given: dict[str, Any] = {"broker_url": self._proxies[name].url, "connect_timeout": 120}
        if name in self.managers:
            process = self._system.manager(store_url=self._store_url, **given)
        else:
            process = self._system.worker(name, 5, "chaos_tasks:handlers", slots=2, **given)
        self._running[name] = process
        self.ever.append(process)

    # --- faults

    def suffer(self, faults: list[Fault], seconds: float) -> None:
        """Let it all happen, each fault for its time."""
        began = monotonic()
        due = sorted(
            [(fault.at, fault.target, self._does(fault)) for fault in faults]
            + [(fault.at + fault.seconds, fault.target, self._undoes(fault)) for fault in faults],
            key=lambda one: one[0],
        )
        while due or monotonic() - began < seconds:
            while due and due[0][0] <= monotonic() - began:
                _, target, action = due.pop(0)
                hands = self._broker_hand if target == "broker" else self._hands
                self._jobs.append(hands.submit(action))
            self.tick()
        for job in self._jobs:
            job.result(120)

    def tick(self) -> None:
        """Start again whoever has died."""
        sleep(TICK_SECONDS)
        for name, process in list(self._running.items()):
            if process.is_over and self._down_until.get(name, 0.0) <= monotonic():
                if (code := process.ends()) != -signal.SIGKILL:
                    self.left.append(f"{name} ended with {code}: {process.err[-300:]}")
                self._start(name)

    def _does(self, fault: Fault) -> Callable[[], None]:
        name = fault.target
        proxy = self._proxies.get(name)

        def kill() -> None:
            self._down_until[name] = monotonic() + fault.seconds
            self._running[name].kill()

        def stop() -> None:
            self._running[name].signal(signal.SIGSTOP)

        if name == "broker":
            return {
                Kind.KILL: self._wreck.kill,
                Kind.FREEZE: self._wreck.freeze,
                Kind.ALARM: lambda: self._wreck.alarm(on=True),
            }[fault.kind]
        assert proxy is not None
        return {
            Kind.KILL: kill,
            Kind.STOP: stop,
            Kind.CUT: proxy.cut,
            Kind.SWALLOW: proxy.swallow,
        }[fault.kind]

    def _undoes(self, fault: Fault) -> Callable[[], None]:
        name = fault.target
        proxy = self._proxies.get(name)

        def nothing() -> None: ...

        def wake() -> None:
            self._running[name].signal(signal.SIGCONT)

        if name == "broker":
            return {
                Kind.KILL: self._wreck.start,
                Kind.FREEZE: self._wreck.thaw,
                Kind.ALARM: lambda: self._wreck.alarm(on=False),
            }[fault.kind]
        assert proxy is not None
        return {
            Kind.KILL: nothing,
            Kind.STOP: wake,
            Kind.CUT: nothing,
            Kind.SWALLOW: proxy.heal,
        }[fault.kind]

    # --- what a manager says

    def ask(self, path: str) -> Any:
        """Whichever manager answers first; None where none does now."""
        for name in self.managers:
            process = self._running[name]
            if process.logged("http_serving") and not process.is_over:
                try:
                    return process.ask(path)
                except (URLError, OSError, AssertionError):
                    continue
        return None

    def counts(self) -> dict[str, int]:
        view = self.ask(f"/api/runs/{RUN}")
        return view["counts"] if view else {}

    def tasks(self) -> list[dict[str, Any]]:
        leader = next(
            self._running[name] for name in self.managers if not self._running[name].is_over
        )
        return leader.tasks(RUN)
