"""Results go together where that costs nobody time."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from skillq import topology
from skillq.messages import (
    Message,
    Outcome,
    Progress,
    TaskAssignment,
    TaskResult,
    TaskResults,
    decode,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_worker.reporter import Reporter
from tests.simulation.loop import VirtualLoop
from tests.unit.wire import Wire
from tests.unit.worker.bench import working
from tests.unit.worker.boss import Boss, order, who


class OneTurn:
    """An executor whose attempts take a turn of the loop each."""

    types = None

    async def execute(self, task: TaskAssignment) -> str:
        await asyncio.sleep(0)
        return task.id


async def test_what_ends_one_turn_after_the_other_is_told_in_one_message(boss: Boss) -> None:
    async with working(boss, OneTurn()):
        await boss.assign(*(order(f"t{n}") for n in range(10)))
        await boss.has_results(10)
    assert len(boss.all(TaskResults)) == 1


class Heard(MemoryTransport):
    """A transport that keeps what is published through it."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker(), app_id="ada")
        self.messages: list[Message] = []
        self.times: list[float] = []

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        self.messages.append(decode(message.body))
        self.times.append(asyncio.get_running_loop().time())


def begun(*, all: bool = True) -> asyncio.Event:
    event = asyncio.Event()
    if all:
        event.set()
    return event


def success(id: str) -> TaskResult:
    return TaskResult(run="default", id=id, attempt=1, outcome=Outcome.SUCCEEDED)


def test_results_wait_for_others_while_attempts_wait_for_a_slot_but_not_for_long() -> None:
    heard = Heard()

    async def story() -> None:
        waiting = begun(all=False)
        reporter = Reporter(heard, who("ada"), lambda _: None, waiting)
        running = asyncio.create_task(reporter.run())
        for n in range(10):  # 2 ms each, by a clock of its own
            await asyncio.sleep(0.002)
            reporter.ended(success(f"t{n}"))
        waiting.set()
        await reporter.flushed()
        running.cancel()

    VirtualLoop(Random(1)).run_until_complete(story())  # type: ignore[abstract]
    told = [len(m.results) for m in heard.messages if isinstance(m, TaskResults)]
    assert sum(told) == 10
    assert len(told) < 4
    assert heard.times[0] == pytest.approx(0.012)


def test_results_wait_no_longer_than_until_the_last_attempt_has_a_slot() -> None:
    heard = Heard()

    async def story() -> None:
        waiting = begun(all=False)
        reporter = Reporter(heard, who("ada"), lambda _: None, waiting)
        running = asyncio.create_task(reporter.run())
        reporter.ended(success("a"))
        await asyncio.sleep(0.001)
        waiting.set()
        await reporter.flushed()
        running.cancel()

    VirtualLoop(Random(1)).run_until_complete(story())  # type: ignore[abstract]
    assert heard.times == [pytest.approx(0.001)]


def test_starts_are_told_only_of_what_goes_on_however_much_else_begins_meanwhile() -> None:
    heard = Heard()

    async def story() -> None:
        reporter = Reporter(heard, who("ada"), lambda _: None, begun())
        running = asyncio.create_task(reporter.run())
        reporter.started(("default", "long", 1), 7.0)
        for n in range(8):  # 5 ms each, by a clock of its own
            reporter.started(("default", f"brief-{n}", 1), 8.0)
            await asyncio.sleep(0.005)
            reporter.ended(success(f"brief-{n}"))
        reporter.started(("default", "next", 1), 9.0)
        await asyncio.sleep(1.0)
        running.cancel()

    loop = VirtualLoop(Random(1))  # type: ignore[abstract]
    loop.run_until_complete(story())
    told = [item for m in heard.messages if isinstance(m, Progress) for item in m.items]
    assert [(item.id, item.at) for item in told] == [("long", 7.0), ("next", 9.0)]


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
        reporter = Reporter(wire, who("ada"), lambda _: None, begun())
        running = asyncio.create_task(reporter.run())
        await asyncio.sleep(0)
        yield reporter, keys
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_ends_alone_is_told_in_the_next_turn(
    published: tuple[Reporter, list[str]],
) -> None:
    reporter, keys = published
    reporter.started(("default", "a", 1), 0.0)
    reporter.ended(success("a"))
    await asyncio.sleep(0)  # wakes it
    await asyncio.sleep(0)
    assert keys == ["result.ada"]


async def test_what_goes_on_keeps_no_result_back(published: tuple[Reporter, list[str]]) -> None:
    reporter, keys = published
    reporter.started(("default", "long", 1), 0.0)
    reporter.started(("default", "a", 1), 0.0)
    reporter.ended(success("a"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert keys == ["result.ada"]
