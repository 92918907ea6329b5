"""Results go together where that costs nobody time."""

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
from tests.unit.wire import Wire
from tests.unit.worker.bench import Bench, working
from tests.unit.worker.boss import Boss, order, until, who


class OneTurn:
    """An executor whose attempts take a turn of the loop each."""

    types = None

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(job.assignment), job)

    async def _work(self, task: TaskAssignment) -> str:
        await asyncio.sleep(0)
        return task.id


async def test_what_ends_one_turn_after_the_other_is_told_in_one_message(boss: Boss) -> None:
    async with working(boss, OneTurn()):
        await boss.assign(*(order(f"t{n}") for n in range(10)))
        await boss.has_results(10)
    assert len(boss.all(TaskResults)) == 1


async def test_a_worker_tells_when_its_last_attempt_has_a_slot(
    boss: Boss, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "RESULT_HOLD_SECONDS", 3600.0)
    async with working(boss, bench):
        await boss.assign(order("a"), order("b"), order("c"))
        for id in "ab":
            assert not boss.results
            await bench.end(id)
        await boss.has_results(2)
        await until(lambda: len(bench.begun) == 3)
        await bench.end("c")
        await boss.has_results(3)
    assert len(boss.all(TaskResults)) == 2


class Heard(MemoryTransport):
    """A transport that keeps what is published through it."""

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


def begun() -> asyncio.Event:
    """No attempt waits for a slot."""
    event = asyncio.Event()
    event.set()
    return event


def success(id: str) -> Result:
    return make_result(("default", id, 1), Outcome.SUCCEEDED, finished_at=clock())


Story = Callable[[Reporter, asyncio.Event], Coroutine[Any, Any, None]]


def heard_of(story: Story, heard: Heard | None = None) -> list[tuple[float, list[str]]]:
    """Whose results were told when, to the ms. Attempts wait for a slot until the story sets the event."""
    heard = heard or Heard()

    async def whole() -> None:
        all_begun = asyncio.Event()
        reporter = Reporter(heard, who("ada"), lambda _: None, all_begun, clock)
        running = asyncio.create_task(reporter.run())
        await story(reporter, all_begun)
        await reporter.wait_until_flushed()
        running.cancel()

    VirtualLoop(Random(1)).run_until_complete(whole())  # type: ignore[abstract]
    return [
        (round(at, 3), [result.id for result in message.results])
        for at, message in zip(heard.times, heard.messages, strict=True)
        if isinstance(message, TaskResults)
    ]


def test_results_wait_10_ms_for_others_while_attempts_wait_for_a_slot() -> None:
    async def story(reporter: Reporter, all_begun: asyncio.Event) -> None:
        for id in "abcdefgh":  # 3 ms each
            await asyncio.sleep(0.003)
            reporter.report_result(success(id))

    assert heard_of(story) == [(0.013, list("abcd")), (0.025, list("efgh"))]


def test_they_wait_from_when_they_ended_not_from_when_that_was_heard() -> None:
    async def story(reporter: Reporter, all_begun: asyncio.Event) -> None:
        ended = success("a")
        await asyncio.sleep(0.002)
        reporter.report_result(ended)

    assert heard_of(story) == [(0.01, ["a"])]


def test_results_wait_no_longer_than_until_the_last_attempt_has_a_slot() -> None:
    async def story(reporter: Reporter, all_begun: asyncio.Event) -> None:
        reporter.report_result(success("a"))
        await asyncio.sleep(0.001)
        all_begun.set()

    assert heard_of(story) == [(0.001, ["a"])]


def test_a_result_has_waited_while_the_broker_confirmed_those_before_it() -> None:
    class Slow(Heard):
        async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
            await super().publish(exchange, key, message)
            await asyncio.sleep(0.03)

    async def story(reporter: Reporter, all_begun: asyncio.Event) -> None:
        reporter.report_result(success("a"))
        await asyncio.sleep(0.012)
        reporter.report_result(success("b"))

    assert heard_of(story, Slow()) == [(0.01, ["a"]), (0.04, ["b"])]


def test_what_is_handed_back_does_not_wait() -> None:
    async def story(reporter: Reporter, all_begun: asyncio.Event) -> None:
        reporter.report_result(make_result(("default", "a", 1), Outcome.RETURNED))

    assert heard_of(story) == [(0.0, ["a"])]


def test_a_start_is_told_in_time_while_attempts_wait_for_a_slot() -> None:
    heard = Heard()

    async def story(reporter: Reporter, all_begun: asyncio.Event) -> None:
        reporter.report_start(("default", "a", 1), clock())
        await asyncio.sleep(0.05)

    heard_of(story, heard)
    assert [type(message) for message in heard.messages] == [Progress]
    assert heard.times == [pytest.approx(0.02)]


def test_results_do_not_wait_for_as_long_as_others_end_turn_by_turn() -> None:
    async def story(reporter: Reporter, all_begun: asyncio.Event) -> None:
        all_begun.set()
        reporter.report_start(("default", "long", 1), clock())
        for n in range(100):
            reporter.report_result(success(f"t{n}"))
            await asyncio.sleep(0)

    (_, first), *others = heard_of(story)
    assert 50 < len(first) < 70
    assert others


def test_starts_are_told_only_of_what_goes_on_however_much_else_begins_meanwhile() -> None:
    heard = Heard()

    async def story() -> None:
        reporter = Reporter(heard, who("ada"), lambda _: None, begun(), clock)
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
    told = [item for m in heard.messages if isinstance(m, Progress) for item in m.items]
    assert [(item.id, round(item.at - START, 3)) for item in told] == [
        ("long", 0.0),
        ("next", 0.04),
    ]


@pytest.fixture
async def published() -> AsyncIterator[tuple[Reporter, list[str]]]:
    """A reporter that waits for something to say, and the keys of what it has said."""
    keys: list[str] = []
    broker = MemoryBroker()
    wire = Wire(broker)

    def note(key: str) -> bool:
        keys.append(key)
        return False

    wire.fails = note
    async with MemoryTransport(broker) as manager, wire:
        await manager.declare(topology.MANAGER)
        reporter = Reporter(wire, who("ada"), lambda _: None, begun(), clock)
        running = asyncio.create_task(reporter.run())
        await asyncio.sleep(0)
        yield reporter, keys
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_ends_alone_is_told_in_the_next_turn(
    published: tuple[Reporter, list[str]],
) -> None:
    reporter, keys = published
    reporter.report_start(("default", "a", 1), clock())
    reporter.report_result(success("a"))
    await asyncio.sleep(0)  # wakes it
    await asyncio.sleep(0)
    assert keys == ["result.ada"]


async def test_what_goes_on_keeps_no_result_back(published: tuple[Reporter, list[str]]) -> None:
    reporter, keys = published
    reporter.report_start(("default", "long", 1), clock())
    reporter.report_start(("default", "a", 1), clock())
    reporter.report_result(success("a"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert keys == ["result.ada"]
