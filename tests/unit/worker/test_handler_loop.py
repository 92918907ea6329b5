"""The handlers' own event loop: calls cross to it, are cancelled, and report their end."""

import asyncio
import contextvars
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from skillq.messages import Outcome, TaskResult
from skillq_worker import Handlers
from skillq_worker.execution.executor import HandlerExecutor
from skillq_worker.execution.handler_loop import HandlerLoop
from tests.support.attempt_runs import run_attempt, start_attempt
from tests.support.fake_manager import LONG_SECONDS, assignment
from tests.support.waiting import until_async


@contextmanager
def executing(*functions: Callable[..., Awaitable[object]]) -> Iterator[HandlerExecutor]:
    handlers = Handlers()
    for function in functions:
        handlers.task(function)
    with HandlerExecutor(handlers) as executor:
        yield executor


def run(executor: HandlerExecutor, task_type: str, **payload: object) -> asyncio.Task[TaskResult]:
    task = assignment(task_type=task_type, payload=payload)
    return asyncio.create_task(run_attempt(executor, task))


class BlockingHandler:
    """A handler that blocks its event loop."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.may_end = threading.Event()

    async def block(self) -> str:
        self.started.set()
        self.may_end.wait(LONG_SECONDS)
        return "over"


async def test_each_of_many_concurrent_attempts_has_its_own_outcome() -> None:
    async def half(n: int) -> int:
        await asyncio.sleep(0.001 * (n % 3))
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n // 2

    with executing(half) as executor:
        results = await asyncio.gather(*(run(executor, "half", n=n) for n in range(200)))
    assert [r.output if r.error is None else r.error for r in results] == [
        f"ValueError: {n} is odd" if n % 2 else n // 2 for n in range(200)
    ]


async def test_a_handler_that_is_cancelled_before_its_start_never_starts() -> None:
    started: list[int] = []
    blocking = BlockingHandler()

    async def note(n: int) -> None:
        started.append(n)

    with executing(blocking.block, note) as executor:
        blocked = run(executor, "block")
        await until_async(blocking.started.is_set, "the handler should block")
        cancelled, wanted = run(executor, "note", n=1), run(executor, "note", n=2)
        await asyncio.sleep(0)  # both calls wait for the loop
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        blocking.may_end.set()
        assert (await wanted).outcome is Outcome.SUCCEEDED
        assert (await blocked).output == "over"
    assert started == [2]


async def test_a_handler_that_is_cancelled_in_the_turn_of_its_submission_never_starts() -> None:
    started: list[int] = []

    async def note(n: int) -> None:
        started.append(n)

    with executing(note) as executor:
        cancelled, ended = start_attempt(executor, assignment(task_type="note", payload={"n": 1}))
        cancelled.cancel()
        assert await ended is None
        await run(executor, "note", n=2)
    assert started == [2]


async def test_cancelling_a_handler_does_not_wait_for_its_end_and_drops_its_output() -> None:
    steps: list[str] = []

    async def stubborn() -> str:
        steps.append("started")
        try:
            await asyncio.sleep(LONG_SECONDS)
        except asyncio.CancelledError:
            steps.append("cancelled")
            await asyncio.sleep(0.02)
        steps.append("ended")
        return "dropped"

    async def other() -> str:
        return "kept"

    with executing(stubborn, other) as executor:
        cancelled = run(executor, "stubborn")
        await until_async(lambda: steps, "the handler should start")
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert "ended" not in steps
        await until_async(lambda: "ended" in steps, "the handler should end")
        assert (await run(executor, "other")).output == "kept"
    assert steps == ["started", "cancelled", "ended"]


async def test_the_end_of_a_handler_after_its_cancellation_does_no_harm() -> None:
    """The end was on its way to the worker while the worker did something else."""
    ended = threading.Event()

    async def quick() -> str:
        ended.set()
        return "well"

    with executing(quick) as executor:
        cancelled, result = start_attempt(executor, assignment(task_type="quick"))
        await asyncio.sleep(0)  # the call crosses to the handlers' loop
        ended.wait(LONG_SECONDS)  # blocks the loop of the test
        cancelled.cancel()
        assert await result is None
        assert (await run(executor, "quick")).output == "well"


async def test_a_handler_sees_context_variables_of_the_worker_and_of_no_other_handler() -> None:
    name = contextvars.ContextVar("name", default="none")

    async def rename(n: int) -> str:
        before = name.get()
        name.set(f"handler {n}")
        await asyncio.sleep(0)
        return f"{before}, {name.get()}"

    name.set("worker")
    with executing(rename) as executor:
        results = await asyncio.gather(*(run(executor, "rename", n=n) for n in range(3)))
    assert [result.output for result in results] == [f"worker, handler {n}" for n in range(3)]
    assert name.get() == "worker"


async def test_each_handler_runs_in_its_own_asyncio_task() -> None:
    async def look() -> str:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    with executing(look) as executor:
        results = [await run(executor, "look") for _ in range(3)]
    assert all(result.outcome is Outcome.SUCCEEDED for result in results)
    assert len({str(result.output) for result in results}) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_users_code_that_ends_the_loop_fails_running_and_later_handlers() -> None:
    async def end_loop() -> None:
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(LONG_SECONDS)

    async def wait() -> None:
        await asyncio.sleep(LONG_SECONDS)

    with executing(end_loop, wait) as executor:
        async with asyncio.timeout(5):
            before = run(executor, "wait")
            await run(executor, "end_loop")
            results = [await before, await run(executor, "wait")]
    assert [result.outcome for result in results] == [Outcome.FAILED] * 2
    assert results[-1].error == "RuntimeError: the loop of all handlers has ended"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_handler_that_cannot_be_cancelled_fails_when_the_loop_has_ended() -> None:
    free = threading.Event()

    async def on_a_thread() -> None:
        await asyncio.to_thread(free.wait, LONG_SECONDS)

    async def end_loop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(LONG_SECONDS)

    with executing(on_a_thread, end_loop) as executor:
        try:
            async with asyncio.timeout(5):
                stuck = run(executor, "on_a_thread")
                await asyncio.sleep(0)
                results = [await run(executor, "end_loop"), await stuck]
                results.append(await run(executor, "end_loop"))
        finally:
            free.set()
    assert {result.error for result in results} == {
        "RuntimeError: the loop of all handlers has ended"
    }


async def test_an_error_in_one_callback_does_not_keep_other_results_back() -> None:
    calls = [FakeCall(fails=n == 1) for n in range(4)]
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    with HandlerLoop[int]() as loop:
        for call in calls:
            loop.start(call)
        await until_async(lambda: all(call.is_done for call in calls), "all calls should end")
    assert len(errors) == 1


async def test_a_next_call_is_registered_before_its_end_can_be_reported() -> None:
    first, second = FakeCall(), FakeCall()
    first.following_call = second
    with HandlerLoop[int]() as loop:
        put, known = loop._to_worker.put, []

        def record(item: object) -> None:
            known.append(second in loop._calls)
            put(item)  # type: ignore[arg-type]

        loop._to_worker.put = record  # type: ignore[method-assign]
        loop.start(first)
        await until_async(lambda: second.is_done, "the second call should end")
    assert known[0]


class FakeCall:
    """A call that returns 1 at once; `on_done` raises an error if `fails` is set."""

    task: asyncio.Task[None] | None = None
    following_call: "FakeCall | None" = None
    is_done = False

    def __init__(self, *, fails: bool = False) -> None:
        self._fails = fails

    async def work(self) -> int:
        return 1

    def next_call(self) -> "FakeCall | None":
        return self.following_call

    def on_done(self, output: int | None, error: BaseException | None) -> None:
        self.is_done = True
        if self._fails:
            raise RuntimeError("a bug of the worker")
