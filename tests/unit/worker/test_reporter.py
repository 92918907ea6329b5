"""Results go together where that costs nobody time."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skillq import topology
from skillq.messages import Outcome, TaskAssignment, TaskResult, TaskResults
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_worker.reporter import Reporter
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
