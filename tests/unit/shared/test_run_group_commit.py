"""An open run groups calls that come at the same time, and keeps their outcomes apart."""

import asyncio

import pytest

from skillq.client import Client, OpenRun
from skillq.client import run as run_module
from skillq.client.run import Results
from skillq.errors import SkillqError, TransportError, Unreachable, UsageError
from skillq.messages import RunStatus
from skillq.transport import Outgoing
from tests.support.event_loop import run_ready_tasks
from tests.support.fake_manager_of_client import FakeManagerOfClient, task
from tests.support.virtual_time import SkippingLoop


@pytest.fixture
def gate(
    manager: FakeManagerOfClient, client: Client, monkeypatch: pytest.MonkeyPatch
) -> "PublishGate":
    return PublishGate(client, monkeypatch)


class PublishGate:
    """Holds back the client's messages while it is closed; `fails` makes publishes fail."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self._open = asyncio.Event()
        self._open.set()
        self._publish = client._publish_message
        monkeypatch.setattr(client, "_publish_message", self._publish_through_gate)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def _publish_through_gate(self, message: Outgoing) -> None:
        if self.fails:
            raise TransportError("no connection")
        await self._open.wait()
        await self._publish(message)


async def test_tasks_submitted_during_a_publish_are_sent_together(
    manager: FakeManagerOfClient, run: OpenRun, gate: PublishGate
) -> None:
    gate.close()
    first = asyncio.create_task(run.result(task("a")))
    await run_ready_tasks()
    others = [asyncio.create_task(run.result(task(id))) for id in "bc"]
    await run_ready_tasks()
    gate.open()
    await run_ready_tasks()
    await manager.receive()
    assert [[t.id for t in submission.tasks] for submission in manager.submissions] == [
        ["a"],
        ["b", "c"],
    ]
    await manager.end_tasks("nightly-1", "c", "a", "b")
    assert [ended.id for ended in await asyncio.gather(first, *others)] == ["a", "b", "c"]


async def test_after_a_refusal_of_a_group_each_call_is_submitted_alone(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    waiting = [asyncio.create_task(run.result(task(id))) for id in "abc"]
    submission = await manager.receive_submission()
    assert [t.id for t in submission.tasks] == ["a", "b", "c"]
    id = submission.submission_id
    await manager.publish_run_event(
        "nightly-1", RunStatus.REFUSED, submission_id=id, reason="b is another"
    )
    manager.submissions.clear()
    while len(manager.submissions) < 3:
        await manager.receive()
    assert [[t.id for t in submission.tasks] for submission in manager.submissions] == [
        ["a"],
        ["b"],
        ["c"],
    ]
    id = manager.submissions[1].submission_id
    await manager.publish_run_event(
        "nightly-1", RunStatus.REFUSED, submission_id=id, reason="b is another"
    )
    await manager.end_tasks("nightly-1", "a", "c")
    with pytest.raises(UsageError, match="b is another"):
        await waiting[1]
    assert [(await waiting[n]).id for n in (0, 2)] == ["a", "c"]


async def test_a_call_that_is_cancelled_before_its_group_is_sent_is_not_submitted(
    manager: FakeManagerOfClient, run: OpenRun, gate: PublishGate
) -> None:
    gate.close()
    first = asyncio.create_task(run.submit([task("a")]))
    await run_ready_tasks()
    cancelled, other = (asyncio.create_task(run.submit([task(id)])) for id in "bc")
    await run_ready_tasks()
    cancelled.cancel()
    await run_ready_tasks()
    gate.open()
    await asyncio.gather(first, other)
    await manager.receive()
    assert [[t.id for t in submission.tasks] for submission in manager.submissions] == [
        ["a"],
        ["c"],
    ]
    await run.submit([task("b")])
    assert [t.id for t in (await manager.receive_submission()).tasks] == ["b"]


async def test_a_call_with_dependencies_is_submitted_alone(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    calls = ([task("a", depends_on=("b",))], [task("b", depends_on=("a",))], [task("c")])
    await asyncio.gather(*(run.submit(call) for call in calls))
    await manager.receive()
    assert [[t.id for t in submission.tasks] for submission in manager.submissions] == [
        ["a"],
        ["b"],
        ["c"],
    ]


async def test_a_group_is_no_larger_than_one_submission_may_be(
    manager: FakeManagerOfClient, run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_MAX_BATCH_TASKS", 4)
    monkeypatch.setattr(run_module, "_MAX_GROUP_BYTES", 1000)
    heavy = task("h", payload={"text": "x" * 900})
    calls = ([task("a"), task("b")], [task("c"), task("d")], [task("e")], [heavy])
    await asyncio.gather(*(run.submit(call) for call in calls))
    while len(manager.submissions) < 3:
        await manager.receive()
    sizes = [[t.id for t in submission.tasks] for submission in manager.submissions]
    assert sizes == [["a", "b", "c", "d"], ["e"], ["h"]]


@pytest.mark.usefixtures("short_silence")
async def test_a_lost_task_does_not_spoil_the_result_of_another_in_its_group(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    one, other = await asyncio.gather(run.submit([task("a")]), run.submit([task("b")]))
    await manager.accept(await manager.receive_submission())
    await manager.end_tasks("nightly-1", "a")
    await manager.reply(await manager.receive_query(), RunStatus.COMPLETED)
    with pytest.raises(SkillqError, match=r"task b: .* does not know it any more"):
        await anext(other)
    assert [ended.id async for ended in one] == ["a"]


async def test_an_event_from_before_a_task_is_sent_is_not_its_result(
    manager: FakeManagerOfClient, run: OpenRun, gate: PublishGate
) -> None:
    gate.close()
    first = asyncio.create_task(run.submit([task("a")]))
    await run_ready_tasks()
    second = asyncio.create_task(run.result(task("b")))
    await run_ready_tasks()
    await manager.end_tasks("nightly-1", "b")
    await run_ready_tasks()
    gate.open()
    await first
    await manager.receive()
    assert [t.id for t in manager.submissions[-1].tasks] == ["b"]
    assert not second.done()
    await manager.end_tasks("nightly-1", "b")
    assert (await second).id == "b"


async def test_callers_whose_group_is_not_sent_yet_get_an_error_when_the_run_is_closed(
    client: Client, gate: PublishGate
) -> None:
    gate.close()
    async with client.open("Nightly 1") as run:
        waiting = [asyncio.create_task(run.submit([task("a")]))]
        await run_ready_tasks()
        waiting.append(asyncio.create_task(run.submit([task("b")])))
        await run_ready_tasks()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert ["was closed" in str(outcome) for outcome in outcomes] == [True, True]


async def test_after_a_refusal_only_tasks_that_have_not_ended_are_submitted_again_alone(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    """A task with the same id and another definition may end before the refusal."""
    waiting = [asyncio.create_task(run.result(task(id))) for id in "abc"]
    id = (await manager.receive_submission()).submission_id
    await manager.end_tasks("nightly-1", "b")
    await manager.publish_run_event(
        "nightly-1", RunStatus.REFUSED, submission_id=id, reason="b is another"
    )
    manager.submissions.clear()
    while len(manager.submissions) < 2:
        await manager.receive()
    assert [[t.id for t in submission.tasks] for submission in manager.submissions] == [
        ["a"],
        ["c"],
    ]
    await manager.end_tasks("nightly-1", "a", "c")
    assert [(await one).id for one in waiting] == ["a", "b", "c"]
    assert not run._open_submissions


async def test_a_refused_call_raises_the_reason_even_if_one_of_its_tasks_has_ended(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    results = await run.submit([task("a"), task("b")])
    id = (await manager.receive_submission()).submission_id
    await manager.end_tasks("nightly-1", "a")
    await manager.publish_run_event(
        "nightly-1", RunStatus.REFUSED, submission_id=id, reason="no room"
    )
    assert (await anext(results)).id == "a"
    with pytest.raises(UsageError, match="no room"):
        await anext(results)


async def test_a_closed_run_accepts_no_tasks(manager: FakeManagerOfClient, client: Client) -> None:
    async with client.open("Nightly 1") as run:
        pass
    with pytest.raises(SkillqError, match="was closed"):
        await run.result(task("a"))


@pytest.mark.usefixtures("short_silence")
async def test_each_lost_task_of_a_group_raises_an_error_for_its_own_caller(
    manager: FakeManagerOfClient, run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "MAX_QUERIED_TASKS", 2)
    a, b, c = (asyncio.create_task(run.result(task(id))) for id in "abc")
    await manager.accept(await manager.receive_submission())
    query = await manager.receive_query()
    assert query.tasks == ("a", "b")
    await manager.reply(query, RunStatus.COMPLETED, "b")
    query = await manager.receive_query()
    assert query.tasks == ("c",)
    await manager.reply(query, RunStatus.COMPLETED, "c")
    with pytest.raises(SkillqError, match="task a: its run has ended"):
        await a
    assert [(await one).id for one in (b, c)] == ["b", "c"]
    assert not run._open_submissions


async def test_tasks_that_could_not_be_published_may_be_submitted_again(
    manager: FakeManagerOfClient, run: OpenRun, gate: PublishGate
) -> None:
    gate.fails = True
    calls = [asyncio.create_task(run.submit([task(id)])) for id in "abc"]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unreachable] * 3
    assert not run._open_submissions
    gate.fails = False
    again = [asyncio.create_task(run.result(task(id))) for id in "abc"]
    await manager.receive_submission()
    await manager.end_tasks("nightly-1", *"abc")
    assert [(await one).id for one in again] == ["a", "b", "c"]


async def test_a_call_that_is_cancelled_while_its_group_is_sent_may_be_submitted_again(
    manager: FakeManagerOfClient, run: OpenRun, gate: PublishGate
) -> None:
    gate.close()
    cancelled, other = (asyncio.create_task(run.result(task(id))) for id in "ab")
    await run_ready_tasks()
    cancelled.cancel()
    await run_ready_tasks()
    gate.open()
    submission = await manager.receive_submission()
    assert [t.id for t in submission.tasks] == ["a", "b"]
    again = asyncio.create_task(run.result(task("a")))
    await manager.receive_submission()
    await manager.end_tasks("nightly-1", "a", "b")
    assert (await other).id == "b"
    assert (await again).id == "a"
    assert not run._open_submissions


@pytest.mark.usefixtures("short_silence")
async def test_an_unknown_submission_is_sent_again_without_cancelled_or_ended_tasks(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    waiting = [asyncio.create_task(run.result(task(id))) for id in "abc"]
    first = await manager.receive_submission()
    waiting[0].cancel()
    await manager.end_tasks("nightly-1", "b")
    await manager.reply(await manager.receive_query(), RunStatus.UNKNOWN)
    again = await manager.receive_submission()
    assert (again.submission_id, [t.id for t in again.tasks]) == (first.submission_id, ["c"])
    await manager.end_tasks("nightly-1", "c")
    assert (await waiting[2]).id == "c"


async def test_an_exception_while_events_are_handled_is_raised_for_the_caller(
    manager: FakeManagerOfClient, run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: object) -> None:
        raise KeyError("a defect")

    waiting = asyncio.create_task(run.result(task("a")))
    await manager.receive_submission()
    monkeypatch.setattr(run, "handle_event", fail)
    await manager.end_tasks("nightly-1", "a")
    with pytest.raises(KeyError):
        await waiting


async def let_manager_answer(manager: FakeManagerOfClient, run: OpenRun) -> None:
    """Submit a task and let the manager end it, so that group commits wait for answers."""
    first = asyncio.create_task(run.result(task("first")))
    await manager.accept(await manager.receive_submission())
    await manager.end_tasks("nightly-1", "first")
    await first
    manager.submissions.clear()


def submitted_ids(manager: FakeManagerOfClient) -> list[list[str]]:
    return [[task.id for task in submission.tasks] for submission in manager.submissions]


@pytest.mark.usefixtures("long_answer_wait")
@pytest.mark.parametrize("answer", ["accepted", "ended"])
async def test_after_a_group_the_next_calls_wait_for_an_answer_to_the_group(
    manager: FakeManagerOfClient, run: OpenRun, answer: str
) -> None:
    await let_manager_answer(manager, run)
    await asyncio.gather(run.submit([task("a"), task("a2")]), run.submit([task("b")]))
    submission = await manager.receive_submission()
    waiting = [asyncio.create_task(run.submit([task(id)])) for id in "cd"]
    await run_ready_tasks()
    assert not any(one.done() for one in waiting)
    if answer == "accepted":
        await manager.accept(submission)
    else:
        await manager.end_tasks("nightly-1", "a")
    await asyncio.gather(*waiting)
    while ["c", "d"] not in submitted_ids(manager):
        await manager.receive()


@pytest.mark.usefixtures("long_answer_wait")
async def test_after_a_group_is_accepted_the_next_calls_wait_until_one_of_its_tasks_has_ended(
    manager: FakeManagerOfClient, run: OpenRun, clock: SkippingLoop
) -> None:
    await let_manager_answer(manager, run)
    older = asyncio.create_task(run.submit([task("old")]))
    await manager.receive_submission()
    await asyncio.gather(older, *(run.submit([task(id)]) for id in "ab"))
    submission = await manager.receive_submission()
    waiting = asyncio.create_task(run.submit([task("c")]))
    clock.advance(100)
    await manager.accept(submission)
    await run_ready_tasks()
    assert not waiting.done()
    await manager.end_tasks("nightly-1", "b", "old")
    await waiting


@pytest.mark.usefixtures("long_answer_wait")
async def test_after_all_calls_of_a_group_are_cancelled_the_next_call_does_not_wait(
    manager: FakeManagerOfClient, run: OpenRun, gate: PublishGate
) -> None:
    await let_manager_answer(manager, run)
    gate.close()
    calls = [asyncio.create_task(run.submit([task(id)])) for id in "ab"]
    await run_ready_tasks()
    for call in calls:
        call.cancel()
    await run_ready_tasks()
    gate.open()
    await run.submit([task("c")])
    await manager.receive()
    assert submitted_ids(manager) == [["a", "b"], ["c"]]


@pytest.mark.usefixtures("long_answer_wait")
async def test_an_answer_to_an_older_submission_does_not_send_the_next_group(
    manager: FakeManagerOfClient, run: OpenRun
) -> None:
    older = asyncio.create_task(run.submit([task("old")]))
    submission = await manager.receive_submission()
    await let_manager_answer(manager, run)
    await asyncio.gather(older, *(run.submit([task(id)]) for id in "ab"))
    waiting = asyncio.create_task(run.submit([task("c")]))
    await manager.accept(submission)
    await manager.end_tasks("nightly-1", "old")
    await run_ready_tasks()
    await manager.receive()
    assert submitted_ids(manager) == [["a", "b"]]
    waiting.cancel()


@pytest.mark.usefixtures("long_answer_wait")
@pytest.mark.parametrize("cancelled", ["b", "bc"])
async def test_after_all_but_one_call_of_a_group_are_cancelled_the_next_call_does_not_wait(
    manager: FakeManagerOfClient, run: OpenRun, gate: PublishGate, cancelled: str
) -> None:
    await let_manager_answer(manager, run)
    gate.close()
    calls: dict[str, asyncio.Task[Results]] = {}
    for together in ("a", "bc"):
        for id in together:
            calls[id] = asyncio.create_task(run.submit([task(id)]))
        await run_ready_tasks()
    for id in cancelled:
        calls.pop(id).cancel()
    await run_ready_tasks()
    gate.open()
    await asyncio.gather(*calls.values())
    await run.submit([task("d")])
    await manager.receive()
    assert submitted_ids(manager) == [[id] for id in "abcd" if id not in cancelled]
