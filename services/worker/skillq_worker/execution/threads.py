"""Run blocking functions on daemon threads, which do not delay the end of the process."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from skillq_worker.execution.failures import safe_str

T = TypeVar("T")


async def run_on_thread(work: Callable[[], T]) -> T:
    """Run a function on a new daemon thread, and return its result or raise its exception.

    The threads of a ThreadPoolExecutor would keep a process alive that has to exit.
    """
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the awaiting coroutine raises it
            future.set_exception(to_plain_exception(error))

    threading.Thread(target=run, name="handler", daemon=True).start()
    return await asyncio.wrap_future(future)


def to_plain_exception(error: BaseException) -> Exception:
    """Return an exception that can be raised on another loop without stopping that loop.

    SystemExit, KeyboardInterrupt and StopIteration become a RuntimeError.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapper = RuntimeError(f"{type(error).__name__}: {safe_str(error)}")
    wrapper.__cause__ = error.__cause__
    return wrapper.with_traceback(error.__traceback__)
