"""A run that stays open: every result comes once, whatever is lost on the way."""

import asyncio
from collections.abc import Iterator

import pytest

from skillq.client import Client, OpenRun
from skillq.client import run as run_module
from skillq.errors import SkillqError, UsageError
from skillq.messages import RunStatus, TaskStatus
from tests.unit.shared.desk import Desk, task


async def test_a_result_is_awaited_by_whoever_handed_its_task_in(desk: Desk, run: OpenRun) -> None:
    first = asyncio.create_task(run.result(task("a")))
    taken = await desk.take()
    assert (taken.run, taken.run_title) == ("nightly-1", "Nightly 1")
    second = asyncio.create_task(run.result(task("b")))
    await desk.take()
    await desk.end("nightly-1", "b")
    ended = await second
    assert (ended.id, ended.status, ended.worker) == ("b", TaskStatus.SUCCEEDED, "Ada")
    assert not first.done()
    await desk.end("nightly-1", "a")
    assert (await first).id == "a"


async def test_results_come_as_they_are_there_and_end_with_the_last(
    desk: Desk, run: OpenRun
) -> None:
    results = await run.submit([task("a"), task("b")])
    await desk.accept(await desk.take())
    await desk.end("nightly-1", "b", "z")
    assert (await anext(results)).id == "b"
    await desk.end("nightly-1", "b", "a")
    assert [ended.id async for ended in results] == ["a"]


async def test_several_may_wait_for_the_results_of_one_call(desk: Desk, run: OpenRun) -> None:
    results = await run.submit([task("a"), task("b")])
    await desk.accept(await desk.take())
    impatient, first, second = [asyncio.create_task(anext(results)) for _ in range(3)]
    await asyncio.sleep(0)
    impatient.cancel()
    await desk.end("nightly-1", "a", "b")
    assert {one.id for one in await asyncio.gather(first, second)} == {"a", "b"}


async def test_nothing_handed_in_ends_at_once(run: OpenRun) -> None:
    assert [ended async for ended in await run.submit([])] == []


async def test_a_refusal_reaches_whoever_waits_for_what_was_refused(
    desk: Desk, run: OpenRun
) -> None:
    refused = asyncio.create_task(run.result(task("a")))
    id = (await desk.take()).submission_id
    await desk.say("nightly-1", RunStatus.REFUSED, submission_id=id, reason="no room")
    with pytest.raises(UsageError, match="no room"):
        await refused
    again = asyncio.create_task(run.result(task("a")))
    await desk.take()
    await desk.end("nightly-1", "a")
    assert (await again).id == "a"


async def test_a_task_that_is_on_its_way_is_not_handed_in_twice(desk: Desk, run: OpenRun) -> None:
    await run.submit([task("a")])
    with pytest.raises(UsageError, match="task a: is on its way"):
        await run.submit([task("b"), task("a")])
    await desk.take()
    await run.submit([task("b")])
    assert [t.id for t in (await desk.take()).tasks] == ["b"]


async def test_any_number_of_tasks_is_handed_in_some_at_a_time(
    desk: Desk, run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_MAX_BATCH_TASKS", 2)
    monkeypatch.setattr(run_module, "_MAX_IN_FLIGHT", 3)
    made = 0

    def tasks() -> Iterator[object]:
        nonlocal made
        for made in range(1, 8):
            yield task(str(made))

    async def work() -> None:
        while len(desk.taken) < 4:
            before = len(desk.taken)
            await desk.receive()
            assert made <= 3 + 2 * 2  # what is ahead, and a batch
            for taken in desk.taken[before:]:
                await desk.end("nightly-1", *(t.id for t in taken.tasks))

    working = asyncio.create_task(work())
    ended = [one.id async for one in run.map(tasks())]  # type: ignore[arg-type]
    await working
    assert sorted(ended) == [str(n) for n in range(1, 8)]
    assert [len(taken.tasks) for taken in desk.taken] == [2, 2, 2, 1]


async def test_what_had_ended_before_is_asked_for(desk: Desk, run: OpenRun) -> None:
    result = asyncio.create_task(run.result(task("a")))
    taken = await desk.take()
    id = taken.submission_id
    await desk.say("nightly-1", RunStatus.ACCEPTED, submission_id=id, known=1, store="s")
    asked = await desk.question()
    assert (asked.tasks, asked.store) == (("a",), "s")
    await desk.answer(asked, RunStatus.COMPLETED, "a")
    assert (await result).status is TaskStatus.SUCCEEDED


@pytest.mark.usefixtures("impatient")
async def test_after_a_silence_the_manager_is_asked_for_what_is_missing(
    desk: Desk, run: OpenRun
) -> None:
    results = await run.submit([task("a"), task("b")])
    await desk.accept(await desk.take())
    await desk.end("nightly-1", "a")
    asked = await desk.question()
    assert asked.tasks == ("b",)
    await desk.answer(asked, RunStatus.ACCEPTED, "b")
    assert [ended.id async for ended in results] == ["a", "b"]


@pytest.mark.usefixtures("impatient")
async def test_a_submission_that_nobody_has_is_handed_in_again_as_it_was(
    desk: Desk, run: OpenRun
) -> None:
    result = asyncio.create_task(run.result(task("a")))
    first = await desk.take()
    await desk.answer(await desk.question(), RunStatus.UNKNOWN)
    assert await desk.take() == first
    await desk.end("nightly-1", "a")
    assert (await result).id == "a"


@pytest.mark.usefixtures("impatient")
async def test_what_the_manager_does_not_know_any_more_is_not_waited_for(
    desk: Desk, run: OpenRun
) -> None:
    result = asyncio.create_task(run.result(task("a")))
    await desk.accept(await desk.take())
    await desk.answer(await desk.question(), RunStatus.COMPLETED)
    with pytest.raises(SkillqError, match=r"task a: .* does not know it any more"):
        await result


async def test_who_waits_when_the_run_is_closed_is_told(desk: Desk, client: Client) -> None:
    async with client.open("Nightly 1") as run:
        result = asyncio.create_task(run.result(task("a")))
        await desk.take()
    with pytest.raises(SkillqError, match="was closed"):
        await result


async def test_a_run_without_a_name_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="no letter a-z or digit to make a name from"):
        async with client.open("?"):
            pass
