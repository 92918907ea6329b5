"""Run users' functions in processes, which can be ended whatever the functions do.

A process serves one attempt after another, so its imports stay loaded. A process that has died or was
ended is replaced.
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
from skillq_worker.execution.failures import Failure, HandlerFailed, TaskFailed, describe_failure
from skillq_worker.execution.outputs import to_output
from skillq_worker.execution.threads import run_on_thread

# Spawned, because a fork would copy the threads' locks, but not the threads.
_CONTEXT = get_context("spawn")
_STARTED = None  # a process sends this before it calls the function


class _DiedIdle(Exception):
    """Raised when a process has died between two calls: the call has not started."""


class _Output(NamedTuple):
    value: JsonValue


class Processes:
    """A pool of processes that grows to the number of concurrent calls."""

    def __init__(self) -> None:
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    async def call(self, function: Callable[..., Any], arguments: dict[str, Any]) -> JsonValue:
        """Call a function in a process and return its output; a cancellation ends the process.

        Raises:
            HandlerFailed: the function raised an exception, or its arguments cannot be sent.
            TaskFailed: the process died.
        """
        process = self._take_process()
        try:
            answer = await run_on_thread(lambda: process.call(function, arguments))
        except _DiedIdle:
            self._end_process(process)
            return await self.call(function, arguments)
        except (asyncio.CancelledError, TaskFailed):
            threading.Thread(target=self._end_process, args=(process,), daemon=True).start()
            raise
        except BaseException:  # the arguments were not sent, so the process is idle
            self._idle.append(process)
            raise
        self._idle.append(process)
        if isinstance(answer, Failure):
            raise HandlerFailed(answer)
        return answer.value

    def _take_process(self) -> "_Process":
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process
            self._end_process(process)
        process = _Process()
        self._all.add(process)
        return process

    def _end_process(self, process: "_Process") -> None:
        process.end()
        self._all.discard(process)

    def stop(self) -> None:
        """End all processes, and wait until they have exited."""
        threads = [threading.Thread(target=process.end) for process in list(self._all)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class _Process:
    def __init__(self) -> None:
        self._connection, child_connection = _CONTEXT.Pipe()
        # Not a daemon process of multiprocessing: a daemon may not start processes.
        self._process = _CONTEXT.Process(
            target=_serve_calls, args=(child_connection,), name="handler"
        )
        self._process.start()
        child_connection.close()
        self._has_been_used = False

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def call(self, function: Callable[..., Any], arguments: dict[str, Any]) -> "_Output | Failure":
        has_started = False
        try:
            self._send(function, arguments)
            has_started = self._receive() is _STARTED
            answer: _Output | Failure = self._receive()
        except (EOFError, OSError) as error:
            self._process.join()
            if self._has_been_used and not has_started:
                raise _DiedIdle from error
            raise TaskFailed(
                f"its process {_describe_exit(self._process.exitcode or 0)}"
            ) from error
        self._has_been_used = True
        return answer

    def _send(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """Send a call to the process.

        Raises:
            EOFError: (or an OSError) the process has died.
            HandlerFailed: the function or an argument cannot be pickled.
        """
        try:
            self._connection.send((function, arguments))
        except (EOFError, OSError):
            raise
        except BaseException as error:  # noqa: BLE001 - to pickle users' objects runs their code
            described = describe_failure(error)
        else:
            return
        raise HandlerFailed(described)

    def _receive(self) -> Any:
        """Return the next object that the process sends.

        Raises:
            EOFError: (or an OSError) the process has died.
        """
        while not self._connection.poll(timings.PROCESS_POLL_SECONDS):
            if not self.is_alive and not self._connection.poll():
                raise EOFError
        return self._connection.recv()

    def end(self) -> None:
        """End the process and all processes that it has started."""
        self._signal(signal.SIGTERM)
        self._process.join(timings.PROCESS_TERMINATE_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.join()

    def _signal(self, signal_number: signal.Signals) -> None:
        pid = self._process.pid
        assert pid is not None, "started"  # noqa: S101 - an invariant
        try:
            os.killpg(pid, signal_number)
        except (
            ProcessLookupError,
            PermissionError,
        ):  # its group does not exist yet, or not any more
            if self.is_alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal_number)


def _describe_exit(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    return f"was killed by signal {-exit_code} ({signal.strsignal(-exit_code)})"


# --- in the process


def _serve_calls(connection: Connection) -> None:
    # A process group of its own: Ctrl-C in the terminal reaches the worker alone, and the processes that
    # the function starts end with this one.
    os.setsid()
    threading.Thread(target=_end_with_worker, name="worker", daemon=True).start()
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - users' modules may raise anything at import
            connection.send(_STARTED)
            connection.send(describe_failure(error))
        else:
            connection.send(_STARTED)
            connection.send(_run_call(function, arguments))


def _end_with_worker() -> None:
    """End this process when the worker has died: other workers get its attempts soon."""
    worker = multiprocessing.parent_process()
    if worker is not None:
        worker.join()
        os.killpg(0, signal.SIGKILL)


def _run_call(function: Callable[..., Any], arguments: dict[str, Any]) -> _Output | Failure:
    try:
        return _Output(to_output(function(**arguments)))
    except BaseException as error:  # noqa: BLE001 - SystemExit, too, is one attempt's failure
        return describe_failure(error)
