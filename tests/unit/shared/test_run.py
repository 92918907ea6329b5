"""An open run gives every result once, even if messages are lost."""

import asyncio
from collections.abc import Iterator

import pytest

from skillq.client import Client, OpenRun
from skillq.client import run as run_module
from skillq.errors import SkillqError, UsageError
from skillq.messages import RunStatus, TaskStatus
from tests.support.fake_manager_of_client import FakeManagerOfClient, task


async def test_each_caller_gets_the_result_of_its_own_task(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    first = asyncio.create_task(run.result(task("a")))
    submission = await manager.receive_submission()
    assert (submission.run, submission.run_title) == ("nightly-1", "Nightly 1")
    second = asyncio.create_task(run.result(task("b")))
    await manager.receive_submission()
    await manager.end_tasks("nightly-1", "b")
    ended = await second
    assert (ended.id, ended.status, ended.worker) == ("b", TaskStatus.SUCCEEDED, "Ada")
    assert not first.done()
    await manager.end_tasks("nightly-1", "a")
    assert (await first).id == "a"


async def test_results_come_in_order_of_arrival_and_stop_after_the_last(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    results = await run.submit([task("a"), task("b")])
    await manager.accept(await manager.receive_submission())
    await manager.end_tasks("nightly-1", "b", "z")
    assert (await anext(results)).id == "b"
    await manager.end_tasks("nightly-1", "b", "a")
    assert [ended.id async for ended in results] == ["a"]


async def test_several_callers_may_wait_for_the_results_of_one_submission(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    results = await run.submit([task("a"), task("b")])
    await manager.accept(await manager.receive_submission())
    cancelled, first, second = [asyncio.create_task(anext(results)) for _ in range(3)]
    await asyncio.sleep(0)
    cancelled.cancel()
    await manager.end_tasks("nightly-1", "a", "b")
    assert {one.id for one in await asyncio.gather(first, second)} == {"a", "b"}


async def test_a_submission_without_tasks_ends_at_once(run: OpenRun) -> None:
    assert [ended async for ended in await run.submit([])] == []


async def test_a_refusal_is_raised_for_the_caller_and_the_task_may_be_submitted_again(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    refused = asyncio.create_task(run.result(task("a")))
    id = (await manager.receive_submission()).submission_id
    await manager.publish_run_event(
        "nightly-1", RunStatus.REFUSED, submission_id=id, reason="no room"
    )
    with pytest.raises(UsageError, match="no room"):
        await refused
    again = asyncio.create_task(run.result(task("a")))
    await manager.receive_submission()
    await manager.end_tasks("nightly-1", "a")
    assert (await again).id == "a"


async def test_a_task_in_flight_cannot_be_submitted_again(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    await run.submit([task("a")])
    with pytest.raises(UsageError, match="task a: is on its way"):
        await run.submit([task("b"), task("a")])
    await manager.receive_submission()
    await run.submit([task("b")])
    assert [t.id for t in (await manager.receive_submission()).tasks] == ["b"]


async def test_map_submits_any_number_of_tasks_in_batches(
    manager: FakeManagerOfClient, run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_MAX_BATCH_TASKS", 2)
    monkeypatch.setattr(run_module, "_MAX_IN_FLIGHT", 3)
    made = 0

    def tasks() -> Iterator[object]:
        nonlocal made
        for made in range(1, 8):
            yield task(str(made))

    async def work() -> None:
        while len(manager.submissions) < 4:
            before = len(manager.submissions)
            await manager.receive()
            assert made <= 3 + 2 * 2  # the limit of tasks in flight, and two batches
            for submission in manager.submissions[before:]:
                await manager.end_tasks("nightly-1", *(t.id for t in submission.tasks))

    working = asyncio.create_task(work())
    ended = [one.id async for one in run.map(tasks())]  # type: ignore[arg-type]
    await working
    assert sorted(ended) == [str(n) for n in range(1, 8)]
    assert [len(submission.tasks) for submission in manager.submissions] == [2, 2, 2, 1]


async def test_the_result_of_a_known_task_is_queried(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    result = asyncio.create_task(run.result(task("a")))
    submission = await manager.receive_submission()
    id = submission.submission_id
    await manager.publish_run_event(
        "nightly-1", RunStatus.ACCEPTED, submission_id=id, known=1, store="s"
    )
    query = await manager.receive_query()
    assert (query.tasks, query.store) == (("a",), "s")
    await manager.reply(query, RunStatus.COMPLETED, "a")
    assert (await result).status is TaskStatus.SUCCEEDED


@pytest.mark.usefixtures("short_silence")
async def test_after_a_silence_the_client_queries_the_missing_results(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    results = await run.submit([task("a"), task("b")])
    await manager.accept(await manager.receive_submission())
    await manager.end_tasks("nightly-1", "a")
    query = await manager.receive_query()
    assert query.tasks == ("b",)
    await manager.reply(query, RunStatus.ACCEPTED, "b")
    assert [ended.id async for ended in results] == ["a", "b"]


@pytest.mark.usefixtures("short_silence")
async def test_an_unknown_submission_is_sent_again_unchanged(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    result = asyncio.create_task(run.result(task("a")))
    first = await manager.receive_submission()
    await manager.reply(await manager.receive_query(), RunStatus.UNKNOWN)
    assert await manager.receive_submission() == first
    await manager.end_tasks("nightly-1", "a")
    assert (await result).id == "a"


@pytest.mark.usefixtures("short_silence")
async def test_a_task_that_the_manager_no_longer_knows_raises_an_error(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    result = asyncio.create_task(run.result(task("a")))
    await manager.accept(await manager.receive_submission())
    await manager.reply(await manager.receive_query(), RunStatus.COMPLETED)
    with pytest.raises(SkillqError, match=r"task a: .* does not know it any more"):
        await result


async def test_a_caller_that_waits_when_the_run_is_closed_gets_an_error(
    manager: FakeManagerOfClient, client: Client
) -> None:
    async with client.open("Nightly 1") as run:
        result = asyncio.create_task(run.result(task("a")))
        await manager.receive_submission()
    with pytest.raises(SkillqError, match="was closed"):
        await result


async def test_a_run_without_a_valid_name_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="no letter a-z or digit to make a name from"):
        async with client.open("?"):
            pass
