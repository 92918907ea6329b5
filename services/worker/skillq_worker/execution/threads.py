"""Work on threads that nobody waits for at the end."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from skillq_worker.execution.failures import safe_str

T = TypeVar("T")


async def on_thread(work: Callable[[], T]) -> T:
    """Run on a daemon thread: an executor's threads would keep a process that wants to leave."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the awaiting side
            future.set_exception(ordinary(error))

    threading.Thread(target=run, name="handler", daemon=True).start()
    return await asyncio.wrap_future(future)


def ordinary(error: BaseException) -> Exception:
    """An error that can cross to another thread's loop without ending it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    other = RuntimeError(f"{type(error).__name__}: {safe_str(error)}")
    other.__cause__ = error.__cause__
    return other.with_traceback(error.__traceback__)
