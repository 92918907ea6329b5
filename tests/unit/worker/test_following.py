"""What waits for a slot begins where an attempt has ended, before the worker has heard of that: all promises hold."""

import asyncio
import gc
import random
import sys
import threading
import time
from collections import Counter
from functools import partial

import pytest

from skillq.messages import Outcome, Progress, TaskAssignment, TaskResults
from skillq_worker import Handlers
from skillq_worker.executor import Cancel, HandlerExecutor, Job
from skillq_worker.making import Making
from tests.unit.worker.bench import BRIEF, working
from tests.unit.worker.boss import SECONDS, Boss, order, ref, until, who

# --- by hand ---------------------------------------------------------------------------------


class Relay:
    """An executor whose attempts end when the test says so; and the worker hears it when the test says so."""

    types = None

    def __init__(self) -> None:
        self.begun: list[Job] = []
        self.called_off: list[str] = []
        self._ended: list[Job] = []
        self.leaves = False  # to the worker what is to follow

    def begin(self, job: Job) -> Cancel:
        self.begun.append(job)
        return partial(self._call_off, job)

    def _call_off(self, job: Job) -> bool:
        if job in self._ended:
            return False
        self.called_off.append(job.task.id)
        asyncio.get_running_loop().call_soon(job.done, None, asyncio.CancelledError())
        return True

    def end(self, number: int) -> Job | None:
        job = self.begun[number]
        self._ended.append(job)
        following = job.next()
        if following is not None and not self.leaves:
            following.begun(self.begin(following))
        return following

    def hear(self, number: int, error: BaseException | None = None) -> None:
        self.begun[number].done(None if error else "well", error)

    @property
    def ids(self) -> list[str]:
        return [job.task.id for job in self.begun]


@pytest.fixture
def relay() -> Relay:
    return Relay()


async def test_the_next_one_begins_in_the_order_in_which_it_came_and_all_are_told(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay):
        await boss.assign(*(order(id) for id in "abc"))
        await until(lambda: relay.begun)
        for number in range(3):
            relay.end(number)
        assert relay.ids == ["a", "b", "c"]
        for number in range(3):
            relay.hear(number)
        await boss.has_results(3)
    assert [(result.id, result.outcome) for result in boss.results] == [
        (id, Outcome.SUCCEEDED) for id in "abc"
    ]


async def test_how_long_an_attempt_took_is_counted_to_its_end_not_to_when_that_was_heard(
    boss: Boss, relay: Relay
) -> None:
    """The manager gives more ahead, the shorter tasks are."""
    async with working(boss, relay):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        relay.end(0)
        await asyncio.sleep(0.05)
        relay.end(1)
        relay.hear(0)
        relay.hear(1)
        a, b = await boss.has_results(2)
    assert a.started_at and a.finished_at and b.started_at and b.finished_at  # noqa: PT018
    assert a.started_at <= a.finished_at <= b.started_at
    assert b.finished_at - b.started_at > 0.04


async def test_what_was_called_off_before_it_was_heard_to_have_begun_is_ended_then_and_never_told(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay) as (one, _):
        await boss.assign(order("a"), order("b"), order("c"))
        await until(lambda: relay.begun)
        relay.end(0)
        await boss.cancel(ref("b"))
        await until(lambda: ("default", "b", 1) not in one._held)
        assert not relay.called_off
        relay.hear(0)
        assert relay.called_off == ["b"]
        await until(lambda: relay.ids == ["a", "b", "c"])
        await boss.hears(Progress)
        relay.end(2)
        relay.hear(2)
        await boss.has_results(2)
    assert set(boss.outcomes) == {"a", "c"}
    assert {item.id for said in boss.all(Progress) for item in said.items} == {"c"}


async def test_what_is_called_off_when_it_has_ended_is_not_told_and_its_slot_goes_on(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay) as (one, _):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        relay.end(0)
        await boss.cancel(ref("a"))
        await until(lambda: ("default", "a", 1) not in one._held)
        relay.hear(0)
        relay.end(1)
        relay.hear(1)
        await boss.has_results(1)
    assert not relay.called_off
    assert set(boss.outcomes) == {"b"}


async def test_what_failed_in_time_has_not_timed_out_though_that_was_heard_too_late(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay):
        await boss.assign(order("a", timeout=0.02))
        await until(lambda: relay.begun)
        relay.end(0)
        await asyncio.sleep(0.05)
        relay.hear(0, ValueError("no such page"))
        (result,) = await boss.has_results(1)
    assert (result.outcome, result.error) == (Outcome.FAILED, "ValueError: no such page")


async def test_the_time_of_what_began_unheard_is_counted_from_its_begin(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay):
        await boss.assign(order("a"), order("b", timeout=1000.0))
        await until(lambda: relay.begun)
        relay.end(0)
        relay.begun[1].began_at -= 999.99  # type: ignore[attr-defined]
        relay.hear(0)
        await until(lambda: relay.called_off == ["b"])
        results = await boss.has_results(2)
    assert [result.outcome for result in results] == [Outcome.SUCCEEDED, Outcome.TIMED_OUT]


async def test_what_is_told_of_a_sync_handler_counts_from_when_it_begins(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        relay.leaves = True
        relay.end(0)
        await asyncio.sleep(0.05)
        relay.hear(0)
        await until(lambda: len(relay.begun) == 2)
        relay.end(1)
        relay.hear(1)
        a, b = await boss.has_results(2)
    assert a.finished_at and b.started_at  # noqa: PT018
    assert b.started_at - a.finished_at > 0.04


async def test_what_has_begun_unheard_is_not_handed_back(boss: Boss, relay: Relay) -> None:
    async with working(boss, relay) as (one, running):
        await boss.assign(order("a"), order("b"), order("c"))
        await until(lambda: relay.begun)
        relay.end(0)
        await boss.recall(ref("b"), ref("c"))
        await boss.has_results(1)
        one.stop()
        await asyncio.sleep(0.01)
        relay.hear(0)
        relay.end(1)
        relay.hear(1)
        await running
    assert boss.outcomes == {
        "a": Outcome.SUCCEEDED,
        "b": Outcome.SUCCEEDED,
        "c": Outcome.RETURNED,
    }


async def test_what_has_begun_unheard_for_another_store_is_ended_and_nothing_is_told_of_it(
    boss: Boss, relay: Relay
) -> None:
    """The new store's attempt has the same number."""
    async with working(boss, relay) as (one, _):
        await boss.assign(order("a"), order("b"), store="old")
        await until(lambda: relay.begun)
        relay.end(0)
        await boss.assign(order("b"), store="new")
        await until(lambda: one._reporter.store == "new")
        relay.hear(0)
        assert relay.called_off == ["b"]
        await until(lambda: relay.ids == ["a", "b", "b"])
        await boss.hears(Progress)
        relay.end(2)
        relay.hear(2)
        await boss.has_results(1)
    assert {said.store for said in boss.all(Progress)} == {"new"}
    assert [[result.id for result in said.results] for said in boss.all(TaskResults)] == [["b"]]


async def test_a_worker_that_is_told_to_leave_at_once_ends_what_has_begun_unheard(
    boss: Boss, relay: Relay
) -> None:
    async with working(boss, relay) as (one, running):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        relay.end(0)
        one.stop(now=True)
        await asyncio.sleep(0.01)
        assert not running.done()
        relay.hear(0)
        await running
    assert relay.called_off == ["b"]
    assert not boss.results


async def test_nothing_follows_once_the_lease_is_too_old_though_the_worker_stands_still(
    relay: Relay,
) -> None:
    async with Boss(who(lease=BRIEF)) as boss, working(boss, relay):
        await boss.assign(order("a"), order("b"))
        await until(lambda: relay.begun)
        time.sleep(0.3)  # noqa: ASYNC251 - it looks at no clock, and sends no heartbeat
        assert relay.end(0) is None
        relay.hear(0)
        await until(lambda: relay.ids == ["a", "b"])
        relay.end(1)
        relay.hear(1)
        await boss.has_results(2)


# --- users' handlers -------------------------------------------------------------------------


class Works:
    """Handlers that note what they do."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.busy = self.most_busy = 0
        self.free = threading.Event()
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
            await until(lambda: not one._held)
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
                await boss.assign(*quick, order("block", task_type="block", timeout=0.2))
                await boss.has_results(before)
                assert "block" not in boss.outcomes
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
                making = (one for one in gc.get_objects() if isinstance(one, Making))
                assert not [one for one in making if one.task.id.startswith("row-")]
            finally:
                gc.enable()
                monkeypatch.undo()
    assert len(calls) < 100
