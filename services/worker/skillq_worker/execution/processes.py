"""Users' functions in processes of their own, which can be ended whatever they do.

A process is used again for the next attempt: what it has imported stays. One that died, or was ended, is replaced.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from pydantic import JsonValue

from skillq import timings
from skillq_worker.execution.failures import Failure, HandlerFailed, TaskFailed, failure
from skillq_worker.execution.outputs import as_output
from skillq_worker.execution.threads import on_thread

# Spawned: a fork would copy the threads' locks, but not the threads.
_CONTEXT = get_context("spawn")
_BEGUN = None


class _DiedIdle(Exception):
    """Raised when a process had died since it was last used: nothing was begun."""


class _Output(NamedTuple):
    value: JsonValue


class Processes:
    """As many as there are calls at a time."""

    def __init__(self) -> None:
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    async def call(self, function: Callable[..., Any], arguments: dict[str, Any]) -> JsonValue:
        """The function's output. Who is cancelled meanwhile ends its process.

        Raises:
            HandlerFailed: it raised something; not every exception can be sent.
            TaskFailed: its process died.
        """
        process = self._take()
        try:
            ended = await on_thread(lambda: process.call(function, arguments))
        except _DiedIdle:
            self._end(process)
            return await self.call(function, arguments)
        except (asyncio.CancelledError, TaskFailed):
            threading.Thread(target=self._end, args=(process,), daemon=True).start()
            raise
        except BaseException:  # what cannot be sent has not been sent
            self._idle.append(process)
            raise
        self._idle.append(process)
        if isinstance(ended, Failure):
            raise HandlerFailed(ended)
        return ended.value

    def _take(self) -> "_Process":
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process
            self._end(process)
        process = _Process()
        self._all.add(process)
        return process

    def _end(self, process: "_Process") -> None:
        process.end()
        self._all.discard(process)

    def stop(self) -> None:
        """End them all, and wait until they have gone."""
        ending = [threading.Thread(target=process.end) for process in list(self._all)]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()


class _Process:
    def __init__(self) -> None:
        self._line, theirs = _CONTEXT.Pipe()
        # No daemon in the words of multiprocessing: those may have no processes of their own.
        self._process = _CONTEXT.Process(target=_serve, args=(theirs,), name="handler")
        self._process.start()
        theirs.close()
        self._was_used = False

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def call(self, function: Callable[..., Any], arguments: dict[str, Any]) -> "_Output | Failure":
        has_begun = False
        try:
            self._send(function, arguments)
            has_begun = self._next() is _BEGUN
            ended: _Output | Failure = self._next()
        except (EOFError, OSError) as error:
            self._process.join()
            if self._was_used and not has_begun:
                raise _DiedIdle from error
            raise TaskFailed(f"its process {_how(self._process.exitcode or 0)}") from error
        self._was_used = True
        return ended

    def _send(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """Raise what the line does, and HandlerFailed where something cannot be sent."""
        try:
            self._line.send((function, arguments))
        except (EOFError, OSError):
            raise
        except BaseException as error:  # noqa: BLE001 - to write objects of users runs their code
            failed = failure(error)
        else:
            return
        raise HandlerFailed(failed)

    def _next(self) -> Any:
        """What it says next.

        Raises:
            EOFError: (or an OSError) it has died.
        """
        while not self._line.poll(timings.PROCESS_POLL_SECONDS):
            if not self.is_alive and not self._line.poll():
                raise EOFError
        return self._line.recv()

    def end(self) -> None:
        """With all that it has started itself."""
        self._signal(signal.SIGTERM)
        self._process.join(timings.PROCESS_TERMINATE_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.join()

    def _signal(self, number: signal.Signals) -> None:
        pid = self._process.pid
        assert pid is not None, "started"  # noqa: S101 - an invariant
        try:
            os.killpg(pid, number)
        except (ProcessLookupError, PermissionError):  # it has no group yet, or none any more
            if self.is_alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    return f"was killed by signal {-exit_code} ({signal.strsignal(-exit_code)})"


# --- in the process


def _serve(line: Connection) -> None:
    # A group of its own: Ctrl-C in the terminal is the worker's affair, and what it starts ends with it.
    os.setsid()
    threading.Thread(target=_end_with_worker, name="worker", daemon=True).start()
    while True:
        try:
            function, arguments = line.recv()
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - users' modules may raise anything at import
            line.send(_BEGUN)
            line.send(failure(error))
        else:
            line.send(_BEGUN)
            line.send(_call(function, arguments))


def _end_with_worker() -> None:
    """A worker that was killed cannot end its processes, and others have its tasks soon."""
    worker = multiprocessing.parent_process()
    if worker is not None:
        worker.join()
        os.killpg(0, signal.SIGKILL)


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> _Output | Failure:
    try:
        return _Output(as_output(function(**arguments)))
    except BaseException as error:  # noqa: BLE001 - SystemExit, too, is one attempt's failure
        return failure(error)
