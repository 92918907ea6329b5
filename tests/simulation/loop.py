"""An event loop with a virtual clock that runs many simulated processes.

Callbacks of one process run in order, as in asyncio. Callbacks of different processes run in a random order. When
nothing is ready, the clock moves to the next timer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MANY_TASKS = 64


class Deadlock(Exception):
    """Raised when a future is awaited and no callback or timer is left."""


class Process:
    """A simulated process: its callbacks run, pause and die together."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.is_alive = True
        self.is_paused = False
        self.runnable_index = -1  # position in the loop's list; -1: not runnable
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)
        self._loop = loop
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = _MANY_TASKS

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._loop.create_task(work, context=self.context)

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine whose result is not needed."""
        _ = self.spawn(work)

    def call_later(self, seconds: float, call: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        self._loop.call_later(seconds, call, *args, context=self.context)

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Keep a task, so that garbage collection does not finish the tasks of a dead process."""
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = [one for one in self._tasks if not one.done()]
            self._prune_at = max(_MANY_TASKS, 2 * len(self._tasks))

    def kill(self) -> None:
        """Run no more callbacks of this process until the end of the simulation."""
        self.is_alive = False
        self._loop.update_runnable(self)

    def pause(self) -> None:
        self.is_paused = True
        self._loop.update_runnable(self)

    def resume(self) -> None:
        """Run the callbacks that became ready during the pause."""
        self.is_paused = False
        self._loop.update_runnable(self)

    def cancel_tasks(self) -> list[asyncio.Task[Any]]:
        """Cancel all tasks of this process, for a clean end of the simulation; return these tasks."""
        self.is_alive, self.is_paused = True, False
        self._loop.update_runnable(self)
        open_tasks = [task for task in self._tasks if not task.done()]
        for task in open_tasks:
            task.cancel()
        return open_tasks


_PROCESS: ContextVar[Process] = ContextVar("process")


def current_process() -> Process:
    return _PROCESS.get()


class VirtualLoop(asyncio.AbstractEventLoop):  # only the methods that asyncio calls here
    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._now = 0.0
        self._order = count()
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process]] = []
        self._runnable: list[Process] = []
        self._is_running = False
        self._is_closed = False
        self.steps = 0
        self.processes: list[Process] = []
        self.errors: list[str] = []
        self.world_process = self.process("world")

    def process(self, name: str) -> Process:
        process = Process(self, name)
        self.processes.append(process)
        return process

    def update_runnable(self, process: Process) -> None:
        """Add or remove a process from the runnable processes, as its state says."""
        runnable = bool(process.ready) and process.is_alive and not process.is_paused
        if runnable and process.runnable_index < 0:
            process.runnable_index = len(self._runnable)
            self._runnable.append(process)
        elif not runnable and process.runnable_index >= 0:
            last = self._runnable.pop()
            if last is not process:
                self._runnable[process.runnable_index] = last
                last.runnable_index = process.runnable_index
            process.runnable_index = -1

    # --- running

    def run_until_complete(self, future: Any) -> Any:
        task = self.world_process.spawn(future) if asyncio.iscoroutine(future) else future
        asyncio._set_running_loop(self)
        self._is_running = True
        try:
            while not task.done():
                self._step()
        finally:
            self._is_running = False
            asyncio._set_running_loop(None)
        return task.result()

    def _step(self) -> None:
        runnable = self._runnable
        if not runnable:
            self._advance()
            return
        process = runnable[int(self._chance.random() * len(runnable))]
        handle = process.ready.popleft()
        if not process.ready:
            self.update_runnable(process)
        if not handle._cancelled:
            self.steps += 1
            handle._run()

    def _advance(self) -> None:
        """Move the clock to the next timer, and make all due timers ready."""
        timers = self._timers
        if not timers:
            raise Deadlock("nothing is ready, and no timer is set")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            _, _, handle, process = heappop(timers)
            if not handle._cancelled:
                self._put(handle, process)

    def _put(self, handle: asyncio.Handle, process: Process) -> None:
        process.ready.append(handle)
        if process.runnable_index < 0:
            self.update_runnable(process)

    # --- the interface for asyncio

    def time(self) -> float:
        return self._now

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        context = context or copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._put(handle, context.get(_PROCESS) or self.world_process)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        context = context or copy_context()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        process = context.get(_PROCESS) or self.world_process
        heappush(self._timers, (when, next(self._order), handle, process))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: a cancelled timer is skipped when it is due."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **more: Any) -> asyncio.Task[Any]:
        context = more.get("context")
        task = asyncio.Task(coro, loop=self, **more)
        process = (
            _PROCESS.get(None) if context is None else context.get(_PROCESS)
        ) or self.world_process
        process.add_task(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep the errors of tasks whose result was never read."""
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        self._is_closed = True
        self._timers.clear()
        self._runnable.clear()
