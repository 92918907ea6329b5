"""Async handlers on their own loop: what is handed over to it, called off on the way, and told back."""

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
from tests.unit.worker.boss import SECONDS, order, until
from tests.unit.worker.calls import attempt, begin


@contextmanager
def handling(*functions: Callable[..., Awaitable[object]]) -> Iterator[HandlerExecutor]:
    handlers = Handlers()
    for function in functions:
        handlers.task(function)
    with HandlerExecutor(handlers) as executor:
        yield executor


def making(
    executor: HandlerExecutor, task_type: str, **payload: object
) -> asyncio.Task[TaskResult]:
    task = order(task_type=task_type, payload=payload)
    return asyncio.create_task(attempt(executor, task))


class Block:
    """A handler that keeps its loop from doing anything else."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.over = threading.Event()

    async def block(self) -> str:
        self.began.set()
        self.over.wait(SECONDS)
        return "over"


async def test_each_of_many_at_once_has_its_own_outcome() -> None:
    async def half(n: int) -> int:
        await asyncio.sleep(0.001 * (n % 3))
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n // 2

    with handling(half) as executor:
        results = await asyncio.gather(*(making(executor, "half", n=n) for n in range(200)))
    assert [r.output if r.error is None else r.error for r in results] == [
        f"ValueError: {n} is odd" if n % 2 else n // 2 for n in range(200)
    ]


async def test_what_is_called_off_before_it_began_never_begins() -> None:
    begun: list[int] = []
    blocking = Block()

    async def note(n: int) -> None:
        begun.append(n)

    with handling(blocking.block, note) as executor:
        blocked = making(executor, "block")
        await until(blocking.began.is_set)
        called_off, wanted = making(executor, "note", n=1), making(executor, "note", n=2)
        await asyncio.sleep(0)  # they have begun to wait for the loop
        called_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await called_off
        blocking.over.set()
        assert (await wanted).outcome is Outcome.SUCCEEDED
        assert (await blocked).output == "over"
    assert begun == [2]


async def test_what_is_called_off_in_the_turn_in_which_it_was_handed_over_never_begins() -> None:
    begun: list[int] = []

    async def note(n: int) -> None:
        begun.append(n)

    with handling(note) as executor:
        called_off, ended = begin(executor, order(task_type="note", payload={"n": 1}))
        called_off.cancel()
        assert await ended is None
        await making(executor, "note", n=2)
    assert begun == [2]


async def test_who_calls_off_a_handler_does_not_wait_for_it_and_its_end_is_nobody_s() -> None:
    said: list[str] = []

    async def stubborn() -> str:
        said.append("begun")
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            said.append("cancelled")
            await asyncio.sleep(0.02)
        said.append("ended")
        return "unheard"

    async def other() -> str:
        return "heard"

    with handling(stubborn, other) as executor:
        called_off = making(executor, "stubborn")
        await until(lambda: said)
        called_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await called_off
        assert "ended" not in said
        await until(lambda: "ended" in said)
        assert (await making(executor, "other")).output == "heard"
    assert said == ["begun", "cancelled", "ended"]


async def test_an_end_that_comes_when_its_attempt_was_called_off_does_no_harm() -> None:
    """It was on its way: the worker looked at something else meanwhile."""
    ended = threading.Event()

    async def quick() -> str:
        ended.set()
        return "well"

    with handling(quick) as executor:
        called_off, over = begin(executor, order(task_type="quick"))
        await asyncio.sleep(0)  # it is handed over
        ended.wait(SECONDS)  # blocks us, as nothing should
        called_off.cancel()
        assert await over is None
        assert (await making(executor, "quick")).output == "well"


async def test_a_handler_sees_the_worker_s_context_and_none_of_another_handler_s() -> None:
    name = contextvars.ContextVar("name", default="none")

    async def rename(n: int) -> str:
        before = name.get()
        name.set(f"handler {n}")
        await asyncio.sleep(0)
        return f"{before}, {name.get()}"

    name.set("worker")
    with handling(rename) as executor:
        results = await asyncio.gather(*(making(executor, "rename", n=n) for n in range(3)))
    assert [result.output for result in results] == [f"worker, handler {n}" for n in range(3)]
    assert name.get() == "worker"


async def test_a_handler_runs_in_a_task_of_its_own() -> None:
    async def look() -> str:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    with handling(look) as executor:
        results = [await making(executor, "look") for _ in range(3)]
    assert all(result.outcome is Outcome.SUCCEEDED for result in results)
    assert len({str(result.output) for result in results}) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_users_code_that_ends_the_loop_fails_what_runs_on_it_and_what_comes_after() -> None:
    async def wreck() -> None:
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(SECONDS)

    async def wait() -> None:
        await asyncio.sleep(SECONDS)

    with handling(wreck, wait) as executor:
        async with asyncio.timeout(5):
            before = making(executor, "wait")
            await making(executor, "wreck")
            results = [await before, await making(executor, "wait")]
    assert [result.outcome for result in results] == [Outcome.FAILED] * 2
    assert results[-1].error == "RuntimeError: the loop of all handlers has ended"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_after_that_nothing_waits_for_what_cannot_be_ended() -> None:
    free = threading.Event()

    async def on_a_thread() -> None:
        await asyncio.to_thread(free.wait, SECONDS)

    async def wreck() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(SECONDS)

    with handling(on_a_thread, wreck) as executor:
        try:
            async with asyncio.timeout(5):
                stuck = making(executor, "on_a_thread")
                await asyncio.sleep(0)
                results = [await making(executor, "wreck"), await stuck]
                results.append(await making(executor, "wreck"))
        finally:
            free.set()
    assert {result.error for result in results} == {
        "RuntimeError: the loop of all handlers has ended"
    }


async def test_what_ended_is_heard_though_one_that_ended_with_it_could_not_be() -> None:
    errands = [Errand(fails=n == 1) for n in range(4)]
    heard_wrong: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: heard_wrong.append(said))
    with HandlerLoop[int]() as loop:
        for errand in errands:
            loop.start(errand)
        await until(lambda: all(errand.is_done for errand in errands))
    assert len(heard_wrong) == 1


async def test_what_follows_is_known_before_it_can_be_heard_of() -> None:
    first, second = Errand(), Errand()
    first.following = second
    with HandlerLoop[int]() as loop:
        put, known = loop._to_worker.put, []

        def look(item: object) -> None:
            known.append(second in loop._calls)
            put(item)  # type: ignore[arg-type]

        loop._to_worker.put = look  # type: ignore[method-assign]
        loop.start(first)
        await until(lambda: second.is_done)
    assert known[0]


class Errand:
    task: asyncio.Task[None] | None = None
    following: "Errand | None" = None
    is_done = False

    def __init__(self, *, fails: bool = False) -> None:
        self._fails = fails

    async def work(self) -> int:
        return 1

    def next_call(self) -> "Errand | None":
        return self.following

    def on_done(self, output: int | None, error: BaseException | None) -> None:
        self.is_done = True
        if self._fails:
            raise RuntimeError("a defect of ours")
