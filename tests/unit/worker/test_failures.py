"""Failures of users' code: each is an outcome with one clear line, and a traceback in the log."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from pydantic import BaseModel

from skillq.messages import (
    Outcome,
)
from skillq.runtime.logs import Log
from skillq_worker import Handlers
from skillq_worker.execution.executor import HandlerExecutor
from skillq_worker.execution.failures import TaskFailed
from tests.support.attempt_runs import (
    handler_error,
    handler_output,
    run_attempt,
    run_handler,
    run_handlers,
)
from tests.support.fake_manager import assignment


def raising(error: BaseException, *, sync: bool) -> Callable[[], Any]:
    def work() -> None:
        raise error

    async def work_async() -> None:
        raise error

    return work if sync else work_async


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class BadTextOfBase(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class ExitingText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class FalseError(Exception):
    """A false exception, like a subclass of `ExceptionGroup` with a length of 0."""

    def __bool__(self) -> bool:
        return False


class BadFormat(str):
    def __format__(self, _: str) -> str:
        raise BadlyFormatted


class BadlyFormatted(Exception):
    def __str__(self) -> str:
        return BadFormat()


class ExitingNotes(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise SystemExit(3)


INVALID_LOCATION: Any = ("f.x", 1, "3", "text")  # Python's own traceback module fails at it

ERRORS = [
    (ValueError("no such page"), "ValueError: no such page"),
    (KeyError("page"), "KeyError: 'page'"),
    (TimeoutError("slow"), "TimeoutError: slow"),
    (SystemExit(3), "SystemExit: 3"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (GeneratorExit(), "GeneratorExit"),
    (StopIteration(1), "StopIteration"),
    (StopAsyncIteration(), "StopAsyncIteration"),
    (asyncio.CancelledError(), "ancelled"),
    (BadText(), "BadText: what it says cannot be read"),
    (BadTextOfBase(), "BadTextOfBase: what it says cannot be read"),
    (ExitingText(), "ExitingText: what it says cannot be read"),
    (FalseError("at all"), "FalseError: at all"),
    (ExitingNotes("closed"), "ExitingNotes: closed"),
    (BadlyFormatted(), "what cannot be described"),
    (SyntaxError("odd", INVALID_LOCATION), "SyntaxError: odd"),
    (ValueError("half a character: \ud800"), r"ValueError: half a character: \ud800"),
    (ValueError("x" * 1_000_000), "ValueError: xxx"),
]


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize(("error", "text"), ERRORS, ids=[text[:20] for _, text in ERRORS])
async def test_any_exception_of_a_handler_fails_its_task_and_the_next_task_runs(
    error: BaseException, text: str, sync: bool
) -> None:
    handlers = Handlers()
    handlers.task("bad")(raising(error, sync=sync))
    handlers.task("good")(lambda: "well")
    with HandlerExecutor(handlers) as executor:
        failed = await run_attempt(executor, assignment(task_type="bad"))
        well = await run_attempt(executor, assignment(task_type="good"))
    assert failed.outcome is Outcome.FAILED
    assert text in (failed.error or "")
    assert len(failed.error or "") <= 2000
    assert well.outcome is Outcome.SUCCEEDED


def fail() -> None:
    raise ValueError("no such page")


async def fail_async() -> None:
    fail()


def leave() -> None:
    sys.exit("enough")


@pytest.mark.parametrize(
    ("function", "last", "frame"),
    [
        (fail, "ValueError: no such page", "in fail"),
        (fail_async, "ValueError: no such page", "in fail_async"),
        (leave, "SystemExit: enough", "in leave"),
    ],
)
async def test_an_exception_of_a_handler_is_logged_once_with_its_traceback(
    function: Callable[..., Any], last: str, frame: str
) -> None:
    with structlog.testing.capture_logs() as entries:
        await run_handler(function)
    (entry,) = entries
    assert (entry["event"], entry["log_level"]) == (Log.HANDLER_RAISED, "warning")
    assert (entry["task"], entry["attempt"]) == (("default", "a"), 1)
    assert entry["exception"].splitlines()[-1] == last
    assert frame in entry["exception"]
    assert "skillq_worker" not in entry["exception"], "only frames of users' code"


async def test_the_text_of_a_users_exception_is_read_on_the_handlers_thread() -> None:
    """Making the text may take any time."""
    threads: list[threading.Thread] = []

    class Slow(Exception):
        def __str__(self) -> str:
            threads.append(threading.current_thread())
            return "slow"

    for sync in (True, False):
        assert await handler_error(raising(Slow(), sync=sync)) == "Slow: slow"
    assert threads
    assert threading.current_thread() not in threads


def with_parameter(path: str) -> None: ...


def refuse() -> None:
    raise TaskFailed("the page is blank")


@pytest.mark.parametrize("function", [refuse, with_parameter, object])
async def test_an_error_whose_text_says_all_is_not_logged(function: Callable[..., Any]) -> None:
    with structlog.testing.capture_logs() as entries:
        await handler_error(function)
    assert not entries


async def test_an_async_handler_that_raises_system_exit_does_not_end_other_handlers() -> None:
    handlers = Handlers()
    started = threading.Event()

    @handlers.task
    async def slow() -> str:
        started.set()
        await asyncio.sleep(0.05)
        return "done"

    @handlers.task
    async def rude() -> None:
        raise SystemExit

    with HandlerExecutor(handlers) as executor:
        other = asyncio.create_task(run_attempt(executor, assignment(task_type="slow")))
        await asyncio.to_thread(started.wait, 5)
        await run_attempt(executor, assignment(task_type="rude"))
        assert (await other).output == "done"


async def test_an_async_handler_that_takes_too_long_is_cancelled_and_times_out() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    result = await run_handler(slow, timeout=0.05)
    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "took longer than 0.05 s")
    assert ended == ["cancelled"]


async def test_a_sync_handler_that_takes_too_long_times_out_at_once() -> None:
    may_end = threading.Event()
    started = time.monotonic()
    result = await run_handler(lambda: may_end.wait(30), timeout=0.05)
    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "took longer than 0.05 s")
    assert time.monotonic() - started < 5
    may_end.set()


async def test_a_timeout_error_raised_by_a_handler_in_time_is_a_failure() -> None:
    result = await run_handler(raising(TimeoutError("upstream"), sync=False), timeout=30)
    assert (result.outcome, result.error) == (Outcome.FAILED, "TimeoutError: upstream")


async def test_a_type_without_handler_is_refused_and_named() -> None:
    handlers = Handlers()
    handlers.task("ocr")(lambda: 1)
    result = await run_handlers(handlers, assignment(task_type="speech"))
    assert (result.outcome, result.error) == (Outcome.REFUSED, "no handler for the type 'speech'")


async def test_users_code_never_runs_on_the_thread_of_the_worker() -> None:
    """This holds for handlers, the models of their parameters, and generators of their output."""
    own_thread = threading.get_ident()
    used_threads: list[int] = []

    class Watched(BaseModel):
        def model_post_init(self, _: object) -> None:
            used_threads.append(threading.get_ident())

    def sync(model: Watched) -> Iterator[int]:
        used_threads.append(threading.get_ident())
        yield 1

    async def not_sync(model: Watched) -> Iterator[int]:
        return sync(model)

    assert await handler_output(sync, model={}) == [1]
    assert await handler_output(not_sync, model={}) == [1]
    assert len(used_threads) == 4
    assert own_thread not in used_threads
