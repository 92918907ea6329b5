"""The summary of a run on standard output; a manager without reader goes on."""

import asyncio
import io
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.outbound.run_summary import SummaryPrinter, print_summary
from skillq_manager.store.memory import MemoryStore
from tests.support.factories import profile, task

KEY, EVIL = ("run", "1"), profile("red\x1b[31m")
DONE = c.EndAttempt(
    KEY, "task", 1, EVIL, Outcome.SUCCEEDED, TaskStatus.SUCCEEDED, None, None, None, 0, 0, 0.0
)  # fmt: skip


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    add = c.AddTask(KEY, 1, "run", task("1"), 0, TaskStatus.READY, 0.0)
    await store.commit([add, c.Assign(KEY, "task", 1, EVIL, 0.0), DONE])
    return store


async def test_a_summary_is_printed_without_control_characters_of_users(
    store: MemoryStore, capfd: pytest.CaptureFixture[str]
) -> None:
    await print_summary(store, "run")
    assert capfd.readouterr().out.splitlines() == [
        "All tasks completed",
        r"Task 1 assigned to red\x1b[31m - Success",
        "Success rate: 100.00%",
    ]


@pytest.fixture(params=["its reader has gone", "the disk is full"])
def broken_stdout(request: pytest.FixtureRequest) -> Iterator[io.TextIOWrapper]:
    if request.param == "the disk is full":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, out = os.pipe()
        os.close(reading)
    with open(out, "w", encoding="utf-8") as file:  # noqa: PTH123 - it has a descriptor, and no path
        yield file


async def test_a_summary_that_cannot_be_written_is_logged_and_the_next_one_is_printed(
    store: MemoryStore,
    broken_stdout: io.TextIOWrapper,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched, structlog.testing.capture_logs() as entries:
        patched.setattr("sys.stdout", broken_stdout)
        await print_summary(store, "run")
        await print_summary(store, "run")
    assert [entry["event"] for entry in entries] == ["summary_not_printed"] * 2
    assert (entries[0]["run"], entries[0]["tasks"], entries[0]["success_rate"]) == ("run", 1, 100)
    await print_summary(store, "run")
    assert capfd.readouterr().out.startswith("All tasks completed\n")


async def test_a_run_that_completes_many_times_is_printed_once_and_does_not_delay_the_manager(
    store: MemoryStore, capfd: pytest.CaptureFixture[str]
) -> None:
    async with SummaryPrinter(store) as summaries:
        for _ in range(100):
            await summaries.print_later("run")
        await asyncio.sleep(0)
    assert capfd.readouterr().out.count("All tasks completed") == 1


async def test_a_run_that_completes_at_the_end_is_printed_before_the_manager_leaves(
    store: MemoryStore, capfd: pytest.CaptureFixture[str]
) -> None:
    async with SummaryPrinter(store) as summaries:
        await summaries.print_later("run")
    assert capfd.readouterr().out.count("All tasks completed") == 1


async def test_the_summary_of_a_long_run_lists_only_tasks_that_did_not_succeed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = MemoryStore()
    for number in range(1, 1003):
        key = ("run", str(number))
        status = TaskStatus.FAILED if number == 500 else TaskStatus.SUCCEEDED
        await store.commit(
            [
                c.AddTask(key, number, "run", task(key[1]), 0, TaskStatus.READY, 0.0),
                c.Assign(key, "task", 1, EVIL, 0.0),
                replace(DONE, key=key, status=status),
            ]
        )
    await print_summary(store, "run")
    assert capfd.readouterr().out.splitlines() == [
        "All tasks completed",
        r"Task 500 assigned to red\x1b[31m - Failure",
        "… and 1001 more",
        "Success rate: 99.90%",
    ]
