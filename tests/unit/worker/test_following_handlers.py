"""Users' async handlers that follow each other on their own loop: each has one outcome, whatever they do there."""

import asyncio
import gc
import random
import sys
import threading
from collections import Counter

import pytest

from skillq.messages import Outcome, TaskAssignment
from skillq_worker import Handlers
from skillq_worker.execution.attempt import AttemptRun
from skillq_worker.execution.executor import HandlerExecutor
from tests.support.virtual_time import advance
from tests.unit.worker.bench import working
from tests.unit.worker.boss import SECONDS, Boss, order, ref, until, who


class Works:
    """Handlers that note what they do."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.busy = self.most_busy = 0
        self.blocked, self.free = threading.Event(), threading.Event()
        self.handlers = Handlers()
        for function in (self.nap, self.sync, self.block, self.wreck, self.sweep, self.odd):
            self.handlers.task(function)

    async def nap(self, name: str, seconds: float = 0.0) -> str:
        self.begun.append(name)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        await asyncio.sleep(seconds)
        self.busy -= 1
        return name

    def sync(self, name: str) -> str:
        self.begun.append(name)
        return name

    async def block(self) -> None:
        self.blocked.set()
        self.free.wait(SECONDS)

    async def sweep(self, name: str) -> None:
        while name not in self.begun:  # noqa: ASYNC110 - on its own loop, as users would
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def odd(self) -> None:
        def fail(*_: object, **__: object) -> asyncio.Task[None]:
            raise RuntimeError("no tasks any more")

        asyncio.get_running_loop().set_task_factory(fail)  # type: ignore[arg-type]

    async def wreck(self) -> None:
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(SECONDS)


def job(name: str, task_type: str = "nap", **payload: object) -> TaskAssignment:
    return order(name, task_type=task_type, payload={"name": name} | payload)


async def test_no_more_run_at_a_time_than_there_are_slots_and_each_once() -> None:
    chance, works = random.Random(1), Works()
    names = [f"t{n}" for n in range(300)]
    with HandlerExecutor(works.handlers) as executor:
        async with Boss(who(slots=5)) as boss, working(boss, executor):
            await boss.assign(*(job(name, seconds=0.003 * chance.random()) for name in names))
            results = await boss.has_results(300)
    assert works.begun == names
    assert works.most_busy == 5
    assert sorted(result.id for result in results) == sorted(names)
    assert {str(result.output) for result in results} == set(names)


async def test_whoever_is_called_off_or_recalled_in_between_each_is_told_of_once_or_never() -> None:
    chance, works = random.Random(2), Works()
    names = [f"t{n}" for n in range(400)]
    recalled, called_off = chance.sample(names, 60), chance.sample(names, 60)
    with HandlerExecutor(works.handlers) as executor:
        async with Boss(who(slots=3)) as boss, working(boss, executor) as (one, _):
            await boss.assign(*(job(name, seconds=0.001 * chance.random()) for name in names))
            for back, off in zip(recalled, called_off, strict=True):
                await boss.recall(ref(back))
                await boss.cancel(ref(off))
                await asyncio.sleep(0.002 * chance.random())
            await until(lambda: not one._held_attempts)
            assert one._slots.running == 0
    assert max(Counter(works.begun).values()) == 1
    assert [id for id in works.begun if boss.outcomes.get(id) is Outcome.RETURNED] == []
    assert max(Counter(result.id for result in boss.results).values()) == 1
    assert set(names) - set(called_off) <= set(boss.outcomes)


async def test_handlers_of_all_kinds_begin_in_the_order_in_which_they_came() -> None:
    works = Works()
    names = [f"t{n}" for n in range(60)]
    kinds = ["nap", "nap", "sync"] * 20
    with HandlerExecutor(works.handlers) as executor:
        async with Boss(who(slots=1)) as boss, working(boss, executor):
            await boss.assign(*(job(name, kind) for name, kind in zip(names, kinds, strict=True)))
            results = await boss.has_results(60)
    assert works.begun == names
    assert [result.output for result in results] == names


@pytest.mark.parametrize("before", [1, 300])
async def test_what_has_ended_is_told_though_the_next_one_blocks_its_loop_and_that_times_out(
    before: int,
) -> None:
    works = Works()
    with HandlerExecutor(works.handlers) as executor:
        async with Boss(who(slots=1)) as boss, working(boss, executor):
            try:
                quick = [job(f"t{n}") for n in range(before)]
                await boss.assign(*quick, order("block", task_type="block", timeout=SECONDS))
                await boss.has_results(before)
                await until(works.blocked.is_set)
                assert "block" not in boss.outcomes
                advance(SECONDS)
                await boss.has_results(before + 1)
            finally:
                works.free.set()
    told = boss.outcomes
    assert told.pop("block") is Outcome.TIMED_OUT
    assert set(told.values()) == {Outcome.SUCCEEDED}


async def test_when_users_code_cancels_all_there_is_each_attempt_still_has_an_outcome() -> None:
    """Of a row of short ones there is nearly always one that has not taken its first step."""
    works = Works()
    with HandlerExecutor(works.handlers) as executor:
        async with Boss(who(slots=2)) as boss, working(boss, executor) as (one, _):
            tasks = [job(f"t{n}") for n in range(500)]
            tasks[1] = order("sweep", task_type="sweep", payload={"name": "t100"})
            await boss.assign(*tasks)
            results = await boss.has_results(500)
            assert one._slots.running == 0
    failed = {result.error for result in results if result.outcome is Outcome.FAILED}
    assert failed == {"the handler cancelled itself"}


async def test_attempts_are_not_made_by_a_task_factory_of_users() -> None:
    """One of theirs may run it within the last step of another."""
    works = Works()
    with HandlerExecutor(works.handlers) as executor:
        async with Boss(who(slots=1)) as boss, working(boss, executor):
            await boss.assign(order("odd", task_type="odd"), *(job(f"t{n}") for n in range(9)))
            await boss.has_results(10)
    assert set(boss.outcomes.values()) == {Outcome.SUCCEEDED}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_when_users_code_ends_the_loop_each_attempt_still_has_an_outcome() -> None:
    works = Works()
    with HandlerExecutor(works.handlers) as executor:
        async with Boss(who(slots=3)) as boss, working(boss, executor):
            tasks = [job(f"t{n}", seconds=0.001) for n in range(100)]
            tasks[50] = order("wreck", task_type="wreck")
            await boss.assign(*tasks)
            results = await boss.has_results(100)
    outcomes = Counter(result.outcome for result in results)
    assert outcomes[Outcome.SUCCEEDED] + outcomes[Outcome.FAILED] == 100
    assert {result.error for result in results} == {
        None,
        "RuntimeError: the loop of all handlers has ended",
    }


async def test_a_long_row_of_short_attempts_crosses_seldom_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works = Works()
    calls: list[object] = []
    with HandlerExecutor(works.handlers) as executor:
        async with Boss(who(slots=1)) as boss, working(boss, executor):
            loop = asyncio.get_running_loop()
            calling = loop.call_soon_threadsafe

            def call(what: object, **more: object) -> object:
                calls.append(what)
                return calling(what, **more)  # type: ignore[arg-type]

            monkeypatch.setattr(loop, "call_soon_threadsafe", call)
            gc.disable()
            try:
                await boss.assign(*(job(f"row-{n}") for n in range(500)))
                await boss.has_results(500)
                making = (one for one in gc.get_objects() if isinstance(one, AttemptRun))
                assert not [one for one in making if one.assignment.id.startswith("row-")]
            finally:
                gc.enable()
                monkeypatch.undo()
    assert len(calls) < 100
