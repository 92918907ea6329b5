"""Async handlers that follow each other on their event loop: each has exactly one outcome."""

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
from tests.support.fake_manager import (
    LONG_SECONDS,
    FakeManager,
    assignment,
    attempt_ref,
    running_worker,
    worker_profile,
)
from tests.support.virtual_time import advance
from tests.support.waiting import until_async


class RecordingHandlers:
    """Handlers that record their calls."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.running = self.most_running = 0
        self.blocked, self.may_end = threading.Event(), threading.Event()
        self.handlers = Handlers()
        for function in (
            self.nap,
            self.sync,
            self.block,
            self.end_loop,
            self.cancel_all,
            self.set_task_factory,
        ):
            self.handlers.task(function)

    async def nap(self, name: str, seconds: float = 0.0) -> str:
        self.started.append(name)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        await asyncio.sleep(seconds)
        self.running -= 1
        return name

    def sync(self, name: str) -> str:
        self.started.append(name)
        return name

    async def block(self) -> None:
        self.blocked.set()
        self.may_end.wait(LONG_SECONDS)

    async def cancel_all(self, name: str) -> None:
        while name not in self.started:  # noqa: ASYNC110 - on its own loop, as users would
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def set_task_factory(self) -> None:
        def fail(*_: object, **__: object) -> asyncio.Task[None]:
            raise RuntimeError("no tasks any more")

        asyncio.get_running_loop().set_task_factory(fail)  # type: ignore[arg-type]

    async def end_loop(self) -> None:
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(LONG_SECONDS)


def nap_assignment(name: str, task_type: str = "nap", **payload: object) -> TaskAssignment:
    return assignment(name, task_type=task_type, payload={"name": name} | payload)


async def test_handlers_run_once_each_and_never_more_than_there_are_slots() -> None:
    chance, recorder = random.Random(1), RecordingHandlers()
    names = [f"t{n}" for n in range(300)]
    with HandlerExecutor(recorder.handlers) as executor:
        async with (
            FakeManager(worker_profile(slots=5)) as manager,
            running_worker(manager, executor),
        ):
            await manager.assign(
                *(nap_assignment(name, seconds=0.003 * chance.random()) for name in names)
            )
            results = await manager.receive_results(300)
    assert recorder.started == names
    assert recorder.most_running == 5
    assert sorted(result.id for result in results) == sorted(names)
    assert {str(result.output) for result in results} == set(names)


async def test_attempts_cancelled_or_recalled_among_others_are_reported_at_most_once() -> None:
    chance, recorder = random.Random(2), RecordingHandlers()
    names = [f"t{n}" for n in range(400)]
    recalled, cancelled = chance.sample(names, 60), chance.sample(names, 60)
    with HandlerExecutor(recorder.handlers) as executor:
        async with (
            FakeManager(worker_profile(slots=3)) as manager,
            running_worker(manager, executor) as (worker, _),
        ):
            await manager.assign(
                *(nap_assignment(name, seconds=0.001 * chance.random()) for name in names)
            )
            for recall_id, cancel_id in zip(recalled, cancelled, strict=True):
                await manager.recall(attempt_ref(recall_id))
                await manager.cancel(attempt_ref(cancel_id))
                await asyncio.sleep(0.002 * chance.random())
            await until_async(
                lambda: not worker._held_attempts, "the worker should hold no attempt"
            )
            assert worker._slots.running == 0
    assert max(Counter(recorder.started).values()) == 1
    assert [id for id in recorder.started if manager.outcomes.get(id) is Outcome.RETURNED] == []
    assert max(Counter(result.id for result in manager.results).values()) == 1
    assert set(names) - set(cancelled) <= set(manager.outcomes)


async def test_sync_and_async_handlers_start_in_order_of_arrival() -> None:
    recorder = RecordingHandlers()
    names = [f"t{n}" for n in range(60)]
    types = ["nap", "nap", "sync"] * 20
    with HandlerExecutor(recorder.handlers) as executor:
        async with (
            FakeManager(worker_profile(slots=1)) as manager,
            running_worker(manager, executor),
        ):
            await manager.assign(
                *(
                    nap_assignment(name, task_type)
                    for name, task_type in zip(names, types, strict=True)
                )
            )
            results = await manager.receive_results(60)
    assert recorder.started == names
    assert [result.output for result in results] == names


@pytest.mark.parametrize("count", [1, 300])
async def test_results_are_reported_while_the_next_handler_blocks_the_loop_and_times_out(
    count: int,
) -> None:
    recorder = RecordingHandlers()
    with HandlerExecutor(recorder.handlers) as executor:
        async with (
            FakeManager(worker_profile(slots=1)) as manager,
            running_worker(manager, executor),
        ):
            try:
                quick = [nap_assignment(f"t{n}") for n in range(count)]
                await manager.assign(
                    *quick, assignment("block", task_type="block", timeout=LONG_SECONDS)
                )
                await manager.receive_results(count)
                await until_async(recorder.blocked.is_set, "the handler should block")
                assert "block" not in manager.outcomes
                advance(LONG_SECONDS)
                await manager.receive_results(count + 1)
            finally:
                recorder.may_end.set()
    outcomes = manager.outcomes
    assert outcomes.pop("block") is Outcome.TIMED_OUT
    assert set(outcomes.values()) == {Outcome.SUCCEEDED}


async def test_each_attempt_has_an_outcome_when_users_code_cancels_all_asyncio_tasks() -> None:
    """Among many short attempts there is nearly always one that has not made its first step."""
    recorder = RecordingHandlers()
    with HandlerExecutor(recorder.handlers) as executor:
        async with (
            FakeManager(worker_profile(slots=2)) as manager,
            running_worker(manager, executor) as (worker, _),
        ):
            tasks = [nap_assignment(f"t{n}") for n in range(500)]
            tasks[1] = assignment("cancel_all", task_type="cancel_all", payload={"name": "t100"})
            await manager.assign(*tasks)
            results = await manager.receive_results(500)
            assert worker._slots.running == 0
    failed = {result.error for result in results if result.outcome is Outcome.FAILED}
    assert failed == {"the handler cancelled itself"}


async def test_attempts_do_not_use_a_task_factory_of_users() -> None:
    """A task factory of users may start an attempt within the last step of another."""
    recorder = RecordingHandlers()
    with HandlerExecutor(recorder.handlers) as executor:
        async with (
            FakeManager(worker_profile(slots=1)) as manager,
            running_worker(manager, executor),
        ):
            await manager.assign(
                assignment("set_task_factory", task_type="set_task_factory"),
                *(nap_assignment(f"t{n}") for n in range(9)),
            )
            await manager.receive_results(10)
    assert set(manager.outcomes.values()) == {Outcome.SUCCEEDED}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_each_attempt_has_an_outcome_when_users_code_ends_the_loop() -> None:
    recorder = RecordingHandlers()
    with HandlerExecutor(recorder.handlers) as executor:
        async with (
            FakeManager(worker_profile(slots=3)) as manager,
            running_worker(manager, executor),
        ):
            tasks = [nap_assignment(f"t{n}", seconds=0.001) for n in range(100)]
            tasks[50] = assignment("end_loop", task_type="end_loop")
            await manager.assign(*tasks)
            results = await manager.receive_results(100)
    outcomes = Counter(result.outcome for result in results)
    assert outcomes[Outcome.SUCCEEDED] + outcomes[Outcome.FAILED] == 100
    assert {result.error for result in results} == {
        None,
        "RuntimeError: the loop of all handlers has ended",
    }


async def test_many_short_attempts_cross_threads_seldom_and_are_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = RecordingHandlers()
    calls: list[object] = []
    with HandlerExecutor(recorder.handlers) as executor:
        async with (
            FakeManager(worker_profile(slots=1)) as manager,
            running_worker(manager, executor),
        ):
            loop = asyncio.get_running_loop()
            call_soon = loop.call_soon_threadsafe

            def call(function: object, **options: object) -> object:
                calls.append(function)
                return call_soon(function, **options)  # type: ignore[arg-type]

            monkeypatch.setattr(loop, "call_soon_threadsafe", call)
            gc.disable()
            try:
                await manager.assign(*(nap_assignment(f"row-{n}") for n in range(500)))
                await manager.receive_results(500)
                runs = (item for item in gc.get_objects() if isinstance(item, AttemptRun))
                assert not [run for run in runs if run.assignment.id.startswith("row-")]
            finally:
                gc.enable()
                monkeypatch.undo()
    assert len(calls) < 100
