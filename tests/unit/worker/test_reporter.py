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


async def test_results_are_not_kept_back_for_as_long_as_others_end() -> None:
    """Not for 500 turns, at least."""
    async with Boss(who()) as boss, working(boss, OneTurn()):
        await boss.assign(*(order(f"t{n}") for n in range(500)))
        await boss.has_results(500)
        assert len(boss.all(TaskResults)) > 2


class Heard(MemoryTransport):
    """A transport that keeps what is published through it."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker(), app_id="ada")
        self.messages: list[Message] = []

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        self.messages.append(decode(message.body))


def test_starts_are_told_only_of_what_goes_on_however_much_else_begins_meanwhile() -> None:
    heard = Heard()

    async def story() -> None:
        reporter = Reporter(heard, who("ada"), lambda _: None)
        running = asyncio.create_task(reporter.run())
        reporter.started(("default", "long", 1), 7.0)
        for n in range(8):  # 5 ms each, by a clock of its own
            reporter.started(("default", f"brief-{n}", 1), 8.0)
            await asyncio.sleep(0.005)
            reporter.ended(
                TaskResult(run="default", id=f"brief-{n}", attempt=1, outcome=Outcome.SUCCEEDED)
            )
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
        reporter = Reporter(wire, who("ada"), lambda _: None)
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
    reporter.ended(TaskResult(run="default", id="a", attempt=1, outcome=Outcome.SUCCEEDED))
    await asyncio.sleep(0)  # wakes it
    await asyncio.sleep(0)
    assert keys == ["result.ada"]


async def test_what_goes_on_keeps_no_result_back(published: tuple[Reporter, list[str]]) -> None:
    reporter, keys = published
    reporter.started(("default", "long", 1), 0.0)
    reporter.started(("default", "a", 1), 0.0)
    reporter.ended(TaskResult(run="default", id="a", attempt=1, outcome=Outcome.SUCCEEDED))
    for _ in range(10):
        await asyncio.sleep(0)
    assert keys == ["result.ada"]
