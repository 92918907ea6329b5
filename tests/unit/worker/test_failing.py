"""Whatever users' code does, it becomes an outcome with one clear line, and its traceback is in the log."""

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
from tests.unit.worker.boss import order
from tests.unit.worker.calls import attempt, call, complaint, made, returned

# --- what goes wrong -------------------------------------------------------------------------


def raising(error: BaseException, *, sync: bool) -> Callable[[], Any]:
    def work() -> None:
        raise error

    async def work_async() -> None:
        raise error

    return work if sync else work_async


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Mute(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Nothing(Exception):
    """As an `ExceptionGroup` of one's own may be that has a length."""

    def __bool__(self) -> bool:
        return False


class Endless(str):
    def __format__(self, _: str) -> str:
        raise Babbling


class Babbling(Exception):
    def __str__(self) -> str:
        return Endless()


class Secretive(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise SystemExit(3)


ODD_PLACE: Any = ("f.x", 1, "3", "text")  # Python's own traceback fails at it

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
    (Unspeakable(), "Unspeakable: what it says cannot be read"),
    (Mute(), "Mute: what it says cannot be read"),
    (Leaving(), "Leaving: what it says cannot be read"),
    (Nothing("at all"), "Nothing: at all"),
    (Secretive("closed"), "Secretive: closed"),
    (Babbling(), "what cannot be described"),
    (SyntaxError("odd", ODD_PLACE), "SyntaxError: odd"),
    (ValueError("half a character: \ud800"), r"ValueError: half a character: \ud800"),
    (ValueError("x" * 1_000_000), "ValueError: xxx"),
]


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize(("error", "said"), ERRORS, ids=[said[:20] for _, said in ERRORS])
async def test_whatever_a_handler_raises_fails_its_task_and_the_next_one_runs(
    error: BaseException, said: str, sync: bool
) -> None:
    handlers = Handlers()
    handlers.task("bad")(raising(error, sync=sync))
    handlers.task("good")(lambda: "well")
    with HandlerExecutor(handlers) as executor:
        failed = await attempt(executor, order(task_type="bad"))
        well = await attempt(executor, order(task_type="good"))
    assert failed.outcome is Outcome.FAILED
    assert said in (failed.error or "")
    assert len(failed.error or "") <= 2000
    assert well.outcome is Outcome.SUCCEEDED


def stumble() -> None:
    raise ValueError("no such page")


async def stumble_async() -> None:
    stumble()


def leave() -> None:
    sys.exit("enough")


@pytest.mark.parametrize(
    ("function", "last", "frame"),
    [
        (stumble, "ValueError: no such page", "in stumble"),
        (stumble_async, "ValueError: no such page", "in stumble_async"),
        (leave, "SystemExit: enough", "in leave"),
    ],
)
async def test_what_a_handler_raises_is_logged_once_with_the_traceback(
    function: Callable[..., Any], last: str, frame: str
) -> None:
    with structlog.testing.capture_logs() as entries:
        await call(function)
    (entry,) = entries
    assert (entry["event"], entry["log_level"]) == (Log.HANDLER_RAISED, "warning")
    assert (entry["task"], entry["attempt"]) == (("default", "a"), 1)
    assert entry["exception"].splitlines()[-1] == last
    assert frame in entry["exception"]
    assert "skillq_worker" not in entry["exception"], "users' frames alone"


async def test_what_users_errors_say_is_asked_where_their_code_runs() -> None:
    """It may take as long as it likes."""
    asked: list[threading.Thread] = []

    class Slow(Exception):
        def __str__(self) -> str:
            asked.append(threading.current_thread())
            return "slow"

    for sync in (True, False):
        assert await complaint(raising(Slow(), sync=sync)) == "Slow: slow"
    assert asked
    assert threading.current_thread() not in asked


def needy(path: str) -> None: ...


def refuse() -> None:
    raise TaskFailed("the page is blank")


@pytest.mark.parametrize("function", [refuse, needy, object])
async def test_what_says_all_itself_is_not_logged(function: Callable[..., Any]) -> None:
    with structlog.testing.capture_logs() as entries:
        await complaint(function)
    assert not entries


async def test_an_async_handler_that_ends_the_loop_s_tasks_does_not_end_the_others() -> None:
    handlers = Handlers()
    began = threading.Event()

    @handlers.task
    async def slow() -> str:
        began.set()
        await asyncio.sleep(0.05)
        return "done"

    @handlers.task
    async def rude() -> None:
        raise SystemExit

    with HandlerExecutor(handlers) as executor:
        other = asyncio.create_task(attempt(executor, order(task_type="slow")))
        await asyncio.to_thread(began.wait, 5)
        await attempt(executor, order(task_type="rude"))
        assert (await other).output == "done"


async def test_an_async_handler_that_takes_too_long_is_cancelled_and_timed_out() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    result = await call(slow, timeout=0.05)
    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "took longer than 0.05 s")
    assert ended == ["cancelled"]


async def test_a_sync_handler_that_takes_too_long_is_timed_out_at_once() -> None:
    let_go = threading.Event()
    began = time.monotonic()
    result = await call(lambda: let_go.wait(30), timeout=0.05)
    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "took longer than 0.05 s")
    assert time.monotonic() - began < 5
    let_go.set()


async def test_a_handler_s_own_timeout_error_within_the_limit_is_a_failure() -> None:
    result = await call(raising(TimeoutError("upstream"), sync=False), timeout=30)
    assert (result.outcome, result.error) == (Outcome.FAILED, "TimeoutError: upstream")


async def test_a_type_without_handler_is_refused_and_named() -> None:
    handlers = Handlers()
    handlers.task("ocr")(lambda: 1)
    result = await made(handlers, order(task_type="speech"))
    assert (result.outcome, result.error) == (Outcome.REFUSED, "no handler for the type 'speech'")


async def test_users_code_never_runs_on_the_worker_s_own_thread() -> None:
    """Neither the handler, nor the models of its parameters, nor what makes its output."""
    ours = threading.get_ident()
    seen: list[int] = []

    class Watched(BaseModel):
        def model_post_init(self, _: object) -> None:
            seen.append(threading.get_ident())

    def sync(model: Watched) -> Iterator[int]:
        seen.append(threading.get_ident())
        yield 1

    async def not_sync(model: Watched) -> Iterator[int]:
        return sync(model)

    assert await returned(sync, model={}) == [1]
    assert await returned(not_sync, model={}) == [1]
    assert len(seen) == 4
    assert ours not in seen
