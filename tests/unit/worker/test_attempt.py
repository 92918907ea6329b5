"""One attempt: cancelled, late or ended; and its memory is freed."""

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
from tests.support.attempt_runs import run_attempt, start_attempt
from tests.support.fake_manager import (
    LONG_SECONDS,
    FakeManager,
    assignment,
    running_worker,
    worker_profile,
)
from tests.support.waiting import until_async


class Stubborn:
    """An executor whose cancelled work raises an error or returns a result."""

    types = None

    def __init__(self, behaviour: str) -> None:
        self._behaviour = behaviour

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(), job)

    async def _work(self) -> str:
        try:
            await asyncio.sleep(LONG_SECONDS)
        except asyncio.CancelledError:
            if self._behaviour == "error":
                raise ValueError("half done") from None
        return self._behaviour


@pytest.mark.parametrize(
    ("behaviour", "outcome"), [("error", Outcome.TIMED_OUT), ("well", Outcome.SUCCEEDED)]
)
async def test_a_late_attempt_times_out_unless_it_still_succeeds(
    behaviour: str, outcome: Outcome
) -> None:
    result = await run_attempt(Stubborn(behaviour), assignment(timeout=0.01))
    assert result.outcome is outcome


@pytest.mark.parametrize("behaviour", ["error", "well"])
async def test_a_cancelled_attempt_has_no_result_however_it_ends(behaviour: str) -> None:
    attempt_run, ended = start_attempt(Stubborn(behaviour), assignment())
    await asyncio.sleep(0)
    attempt_run.cancel()
    assert await ended is None


@pytest.mark.parametrize("sync", [True, False])
async def test_a_handler_that_fails_because_its_timeout_cancelled_it_has_timed_out(
    sync: bool,
) -> None:
    handlers = Handlers()

    async def late() -> None:
        try:
            await asyncio.sleep(LONG_SECONDS)
        except asyncio.CancelledError:
            raise ValueError("half done") from None

    def late_sync() -> None:
        time.sleep(0.05)
        raise ValueError("half done")

    handlers.task("late")(late_sync if sync else late)
    with HandlerExecutor(handlers) as executor:
        result = await run_attempt(executor, assignment(task_type="late", timeout=0.02))
    assert result.outcome is Outcome.TIMED_OUT


async def test_a_handler_that_blocks_its_loop_times_out_in_time() -> None:
    handlers = Handlers()
    may_end = threading.Event()

    @handlers.task
    async def block() -> None:
        may_end.wait(LONG_SECONDS)

    with HandlerExecutor(handlers) as executor:
        try:
            async with asyncio.timeout(LONG_SECONDS / 2):
                result = await run_attempt(executor, assignment(task_type="block", timeout=0.05))
        finally:
            may_end.set()
    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "took longer than 0.05 s")


async def test_an_ended_attempt_is_freed_without_the_garbage_collector() -> None:
    """Garbage collection is rare in a worker, and slow: it walks through all objects."""
    handlers = Handlers()

    @handlers.task
    async def good() -> None: ...

    @handlers.task
    async def bad() -> None:
        raise ValueError

    @handlers.task
    async def slow() -> None:
        await asyncio.sleep(LONG_SECONDS)

    def remaining() -> list[AttemptRun]:
        runs = (item for item in gc.get_objects() if isinstance(item, AttemptRun))
        return [attempt_run for attempt_run in runs if attempt_run.assignment.id == "gone"]

    handlers.task("sync")(lambda: None)
    with HandlerExecutor(handlers) as executor:
        gc.collect()
        gc.disable()
        try:
            for task_type in ("good", "bad", "sync", "nobody-s"):
                task = assignment("gone", task_type=task_type, timeout=LONG_SECONDS)
                await run_attempt(executor, task)
            await run_attempt(executor, assignment("gone", task_type="slow", timeout=0.01))
            attempt_run, ended = start_attempt(executor, assignment("gone", task_type="slow"))
            attempt_run.cancel()
            await ended
            del attempt_run, ended
            # A cancelled handler ends a little later.
            await until_async(lambda: not remaining(), "all ended attempts should be freed")
        finally:
            gc.enable()


async def test_a_handler_does_not_see_context_variables_of_the_previous_one() -> None:
    handlers = Handlers()
    name = contextvars.ContextVar("name", default="none")

    @handlers.task
    async def rename(n: int) -> str:
        before = name.get()
        name.set(f"handler {n}")
        return before

    name.set("worker")
    profile = worker_profile(slots=2, types=("rename",))
    with HandlerExecutor(handlers) as executor:
        async with FakeManager(profile) as manager, running_worker(manager, executor):
            tasks = (assignment(f"t{n}", task_type="rename", payload={"n": n}) for n in range(20))
            await manager.assign(*tasks)
            results = await manager.receive_results(20)
    assert [result.output for result in results] == ["worker"] * 20


async def test_attempts_that_arrive_together_cross_threads_together_in_both_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = Handlers()

    @handlers.task
    async def quick() -> None: ...

    calls: Counter[asyncio.AbstractEventLoop] = Counter()
    with HandlerExecutor(handlers) as executor:
        worker_loop, handler_loop = executor._loop._worker_side.loop, executor._loop._loop
        for loop in (worker_loop, handler_loop):
            call_soon = loop.call_soon_threadsafe

            def call(
                function: Any, loop: Any = loop, call_soon: Any = call_soon, **options: Any
            ) -> Any:
                calls[loop] += 1
                return call_soon(function, **options)

            monkeypatch.setattr(loop, "call_soon_threadsafe", call)
        started = [start_attempt(executor, assignment(task_type="quick")) for _ in range(100)]
        for _, ended in started:
            await ended
        monkeypatch.undo()
    assert calls[handler_loop] == 1
    assert calls[worker_loop] < 20
