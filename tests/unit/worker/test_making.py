"""One attempt: called off, late, or over; and what is left of it."""

import asyncio
import contextvars
import gc
import threading
import time
from collections import Counter
from typing import Any

import pytest

from skillq.messages import Outcome
from skillq_worker import Handlers
from skillq_worker.execution.attempt import AttemptRun
from skillq_worker.execution.executor import CancelJob, HandlerExecutor, Job, run_in_task
from tests.unit.worker.bench import working
from tests.unit.worker.boss import SECONDS, Boss, order, until, who
from tests.unit.worker.calls import attempt, begin


class Stubborn:
    """An executor whose work does as it likes when it is called off."""

    types = None

    def __init__(self, says: str) -> None:
        self._says = says

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(), job)

    async def _work(self) -> str:
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            if self._says == "error":
                raise ValueError("half done") from None
        return self._says


@pytest.mark.parametrize(
    ("says", "outcome"), [("error", Outcome.TIMED_OUT), ("well", Outcome.SUCCEEDED)]
)
async def test_what_is_late_has_timed_out_unless_it_ends_well_all_the_same(
    says: str, outcome: Outcome
) -> None:
    result = await attempt(Stubborn(says), order(timeout=0.01))
    assert result.outcome is outcome


@pytest.mark.parametrize("says", ["error", "well"])
async def test_nothing_is_told_of_what_was_called_off_however_it_ends(says: str) -> None:
    making, ended = begin(Stubborn(says), order())
    await asyncio.sleep(0)
    making.cancel()
    assert await ended is None


@pytest.mark.parametrize("sync", [True, False])
async def test_what_fails_since_it_was_called_off_for_its_time_has_timed_out(sync: bool) -> None:
    handlers = Handlers()

    async def late() -> None:
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            raise ValueError("half done") from None

    def late_sync() -> None:
        time.sleep(0.05)
        raise ValueError("half done")

    handlers.task("late")(late_sync if sync else late)
    with HandlerExecutor(handlers) as executor:
        result = await attempt(executor, order(task_type="late", timeout=0.02))
    assert result.outcome is Outcome.TIMED_OUT


async def test_a_handler_that_blocks_its_loop_times_out_when_its_time_is_over() -> None:
    handlers = Handlers()
    over = threading.Event()

    @handlers.task
    async def block() -> None:
        over.wait(SECONDS)

    with HandlerExecutor(handlers) as executor:
        try:
            async with asyncio.timeout(SECONDS / 2):
                result = await attempt(executor, order(task_type="block", timeout=0.05))
        finally:
            over.set()
    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "took longer than 0.05 s")


async def test_what_is_over_leaves_nothing_to_the_search_for_cycles() -> None:
    """That is searched rarely, and goes through all that a worker holds."""
    handlers = Handlers()

    @handlers.task
    async def good() -> None: ...

    @handlers.task
    async def bad() -> None:
        raise ValueError

    @handlers.task
    async def slow() -> None:
        await asyncio.sleep(SECONDS)

    def left() -> list[AttemptRun]:
        there = (one for one in gc.get_objects() if isinstance(one, AttemptRun))
        return [making for making in there if making.assignment.id == "gone"]

    handlers.task("sync")(lambda: None)
    with HandlerExecutor(handlers) as executor:
        gc.collect()
        gc.disable()
        try:
            for task_type in ("good", "bad", "sync", "nobody-s"):
                task = order("gone", task_type=task_type, timeout=SECONDS)
                await attempt(executor, task)
            await attempt(executor, order("gone", task_type="slow", timeout=0.01))
            making, ended = begin(executor, order("gone", task_type="slow"))
            making.cancel()
            await ended
            del making, ended
            # Those that were called off end in their own time.
            await until(lambda: not left())
        finally:
            gc.enable()


async def test_a_handler_that_begins_when_another_ends_sees_nothing_of_it() -> None:
    handlers = Handlers()
    name = contextvars.ContextVar("name", default="none")

    @handlers.task
    async def rename(n: int) -> str:
        before = name.get()
        name.set(f"handler {n}")
        return before

    name.set("worker")
    profile = who(slots=2, types=("rename",))
    with HandlerExecutor(handlers) as executor:
        async with Boss(profile) as boss, working(boss, executor):
            tasks = (order(f"t{n}", task_type="rename", payload={"n": n}) for n in range(20))
            await boss.assign(*tasks)
            results = await boss.has_results(20)
    assert [result.output for result in results] == ["worker"] * 20


async def test_what_comes_together_crosses_to_the_handlers_together_and_so_do_its_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = Handlers()

    @handlers.task
    async def quick() -> None: ...

    calls: Counter[asyncio.AbstractEventLoop] = Counter()
    with HandlerExecutor(handlers) as executor:
        here, there = executor._loop._worker_side.loop, executor._loop._loop
        for loop in (here, there):
            calling = loop.call_soon_threadsafe

            def call(what: Any, loop: Any = loop, calling: Any = calling, **more: Any) -> Any:
                calls[loop] += 1
                return calling(what, **more)

            monkeypatch.setattr(loop, "call_soon_threadsafe", call)
        begun = [begin(executor, order(task_type="quick")) for _ in range(100)]
        for _, ended in begun:
            await ended
        monkeypatch.undo()
    assert calls[there] == 1
    assert calls[here] < 20
