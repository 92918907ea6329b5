"""The reporter puts results into one message where nobody waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any

import pytest

from skillq import timings, topology
from skillq.messages import (
    Message,
    Outcome,
    Progress,
    TaskAssignment,
    TaskResults,
    decode,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_worker.execution.executor import CancelJob, Job, run_in_task
from skillq_worker.reporter import Reporter
from skillq_worker.results import Result, make_result
from tests.simulation.loop import VirtualLoop
from tests.support.fake_executor import FakeExecutor
from tests.support.fake_manager import FakeManager, assignment, running_worker, worker_profile
from tests.support.fault_injecting_transport import FaultInjectingTransport
from tests.support.waiting import until_async


class OneTurnExecutor:
    """An executor whose attempts take one turn of the loop each."""

    types = None

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(job.assignment), job)

    async def _work(self, task: TaskAssignment) -> str:
        await asyncio.sleep(0)
        return task.id


async def test_attempts_that_end_in_successive_turns_are_reported_in_one_message(
    manager: FakeManager,
) -> None:
    async with running_worker(manager, OneTurnExecutor()):
        await manager.assign(*(assignment(f"t{n}") for n in range(10)))
        await manager.receive_results(10)
    assert len(manager.received(TaskResults)) == 1


async def test_results_are_reported_when_the_last_attempt_has_a_slot(
    manager: FakeManager, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RESULT_HOLD_SECONDS", 3600.0)
    async with running_worker(manager, executor):
        await manager.assign(assignment("a"), assignment("b"), assignment("c"))
        for id in "ab":
            assert not manager.results
            await executor.end(id)
        await manager.receive_results(2)
        await until_async(lambda: len(executor.started) == 3, "three attempts should start")
        await executor.end("c")
        await manager.receive_results(3)
    assert len(manager.received(TaskResults)) == 2


class RecordingTransport(MemoryTransport):
    """A transport that records what is published."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker(), app_id="ada")
        self.messages: list[Message] = []
        self.times: list[float] = []

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        self.messages.append(decode(message.body))
        self.times.append(asyncio.get_running_loop().time())


START = 1000.0  # by the worker's clock


def clock() -> float:
    return START + asyncio.get_running_loop().time()


def none_waiting() -> asyncio.Event:
    """Return an event that says: no attempt waits for a slot."""
    event = asyncio.Event()
    event.set()
    return event


def success(id: str) -> Result:
    return make_result(("default", id, 1), Outcome.SUCCEEDED, finished_at=clock())


Story = Callable[[Reporter, asyncio.Event], Coroutine[Any, Any, None]]


def reported_in(
    story: Story, transport: RecordingTransport | None = None
) -> list[tuple[float, list[str]]]:
    """Return when the results of which tasks were reported, rounded to ms.

    Attempts wait for a slot until the story sets the event.
    """
    transport = transport or RecordingTransport()

    async def run_story() -> None:
        nothing_waits = asyncio.Event()
        reporter = Reporter(transport, worker_profile("ada"), lambda _: None, nothing_waits, clock)
        running = asyncio.create_task(reporter.run())
        await story(reporter, nothing_waits)
        await reporter.wait_until_flushed()
        running.cancel()

    VirtualLoop(Random(1)).run_until_complete(run_story())  # type: ignore[abstract]
    return [
        (round(at, 3), [result.id for result in message.results])
        for at, message in zip(transport.times, transport.messages, strict=True)
        if isinstance(message, TaskResults)
    ]


def test_results_wait_10_ms_for_others_while_attempts_wait_for_a_slot() -> None:
    async def story(reporter: Reporter, nothing_waits: asyncio.Event) -> None:
        for id in "abcdefgh":  # 3 ms each
            await asyncio.sleep(0.003)
            reporter.report_result(success(id))

    assert reported_in(story) == [(0.013, list("abcd")), (0.025, list("efgh"))]


def test_the_10_ms_count_from_the_end_of_the_attempt() -> None:
    async def story(reporter: Reporter, nothing_waits: asyncio.Event) -> None:
        ended = success("a")
        await asyncio.sleep(0.002)
        reporter.report_result(ended)

    assert reported_in(story) == [(0.01, ["a"])]


def test_results_wait_only_until_the_last_attempt_has_a_slot() -> None:
    async def story(reporter: Reporter, nothing_waits: asyncio.Event) -> None:
        reporter.report_result(success("a"))
        await asyncio.sleep(0.001)
        nothing_waits.set()

    assert reported_in(story) == [(0.001, ["a"])]


def test_the_wait_of_a_result_includes_the_confirm_of_earlier_results() -> None:
    class Slow(RecordingTransport):
        async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
            await super().publish(exchange, key, message)
            await asyncio.sleep(0.03)

    async def story(reporter: Reporter, nothing_waits: asyncio.Event) -> None:
        reporter.report_result(success("a"))
        await asyncio.sleep(0.012)
        reporter.report_result(success("b"))

    assert reported_in(story, Slow()) == [(0.01, ["a"]), (0.04, ["b"])]


def test_a_returned_attempt_is_reported_at_once() -> None:
    async def story(reporter: Reporter, nothing_waits: asyncio.Event) -> None:
        reporter.report_result(make_result(("default", "a", 1), Outcome.RETURNED))

    assert reported_in(story) == [(0.0, ["a"])]


def test_a_start_is_reported_in_time_while_attempts_wait_for_a_slot() -> None:
    transport = RecordingTransport()

    async def story(reporter: Reporter, nothing_waits: asyncio.Event) -> None:
        reporter.report_start(("default", "a", 1), clock())
        await asyncio.sleep(0.05)

    reported_in(story, transport)
    assert [type(message) for message in transport.messages] == [Progress]
    assert transport.times == [pytest.approx(0.02)]


def test_results_are_reported_even_while_attempts_end_in_every_turn() -> None:
    async def story(reporter: Reporter, nothing_waits: asyncio.Event) -> None:
        nothing_waits.set()
        reporter.report_start(("default", "long", 1), clock())
        for n in range(100):
            reporter.report_result(success(f"t{n}"))
            await asyncio.sleep(0)

    (_, first), *others = reported_in(story)
    assert 50 < len(first) < 70
    assert others


def test_only_attempts_that_go_on_have_their_start_reported() -> None:
    transport = RecordingTransport()

    async def story() -> None:
        reporter = Reporter(transport, worker_profile("ada"), lambda _: None, none_waiting(), clock)
        running = asyncio.create_task(reporter.run())
        reporter.report_start(("default", "long", 1), clock())
        for n in range(8):  # 5 ms each
            reporter.report_start(("default", f"brief-{n}", 1), clock())
            await asyncio.sleep(0.005)
            reporter.report_result(success(f"brief-{n}"))
        reporter.report_start(("default", "next", 1), clock())
        await asyncio.sleep(1.0)
        running.cancel()

    loop = VirtualLoop(Random(1))  # type: ignore[abstract]
    loop.run_until_complete(story())
    started = [item for m in transport.messages if isinstance(m, Progress) for item in m.items]
    assert [(item.id, round(item.at - START, 3)) for item in started] == [
        ("long", 0.0),
        ("next", 0.04),
    ]


@pytest.fixture
async def reporter_and_keys() -> AsyncIterator[tuple[Reporter, list[str]]]:
    """Yield an idle reporter, and the routing keys of its reports."""
    keys: list[str] = []
    broker = MemoryBroker()
    transport = FaultInjectingTransport(broker)

    def record(key: str) -> bool:
        keys.append(key)
        return False

    transport.should_fail = record
    async with MemoryTransport(broker) as manager, transport:
        await manager.declare(topology.MANAGER)
        reporter = Reporter(transport, worker_profile("ada"), lambda _: None, none_waiting(), clock)
        running = asyncio.create_task(reporter.run())
        await asyncio.sleep(0)
        yield reporter, keys
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_single_result_is_reported_in_the_next_turn(
    reporter_and_keys: tuple[Reporter, list[str]],
) -> None:
    reporter, keys = reporter_and_keys
    reporter.report_start(("default", "a", 1), clock())
    reporter.report_result(success("a"))
    await asyncio.sleep(0)  # wakes the reporter
    await asyncio.sleep(0)
    assert keys == ["result.ada"]


async def test_a_running_attempt_does_not_delay_the_result_of_another(
    reporter_and_keys: tuple[Reporter, list[str]],
) -> None:
    reporter, keys = reporter_and_keys
    reporter.report_start(("default", "long", 1), clock())
    reporter.report_start(("default", "a", 1), clock())
    reporter.report_result(success("a"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert keys == ["result.ada"]
