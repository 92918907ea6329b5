"""Calls of an open run that come at about the same time go together, and none of them pays for another."""

import asyncio

import pytest

from skillq.client import Client, OpenRun
from skillq.client import run as run_module
from skillq.client.run import Results
from skillq.errors import SkillqError, TransportError, Unreachable, UsageError
from skillq.messages import RunStatus
from skillq.transport import Outgoing
from tests.support.virtual_time import SkippingLoop
from tests.unit.shared.desk import Desk, task


@pytest.fixture
def road(desk: Desk, client: Client, monkeypatch: pytest.MonkeyPatch) -> "Road":
    return Road(client, monkeypatch)


class Road:
    """To the broker. While it is closed, a submission is on its way."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self._open = asyncio.Event()
        self._open.set()
        self._go = client._publish_message
        monkeypatch.setattr(client, "_publish_message", self._say)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def _say(self, message: Outgoing) -> None:
        if self.fails:
            raise TransportError("the bridge is out")
        await self._open.wait()
        await self._go(message)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_handed_in_while_something_is_on_its_way_goes_together(
    desk: Desk, run: OpenRun, road: Road
) -> None:
    road.close()
    first = asyncio.create_task(run.result(task("a")))
    await turns()
    others = [asyncio.create_task(run.result(task(id))) for id in "bc"]
    await turns()
    road.open()
    await turns()
    await desk.receive()
    assert [[t.id for t in taken.tasks] for taken in desk.taken] == [["a"], ["b", "c"]]
    await desk.end("nightly-1", "c", "a", "b")
    assert [ended.id for ended in await asyncio.gather(first, *others)] == ["a", "b", "c"]


async def test_where_several_are_refused_together_each_is_judged_alone(
    desk: Desk, run: OpenRun
) -> None:
    waiting = [asyncio.create_task(run.result(task(id))) for id in "abc"]
    together = await desk.take()
    assert [t.id for t in together.tasks] == ["a", "b", "c"]
    id = together.submission_id
    await desk.say("nightly-1", RunStatus.REFUSED, submission_id=id, reason="b is another")
    desk.taken.clear()
    while len(desk.taken) < 3:
        await desk.receive()
    assert [[t.id for t in taken.tasks] for taken in desk.taken] == [["a"], ["b"], ["c"]]
    id = desk.taken[1].submission_id
    await desk.say("nightly-1", RunStatus.REFUSED, submission_id=id, reason="b is another")
    await desk.end("nightly-1", "a", "c")
    with pytest.raises(UsageError, match="b is another"):
        await waiting[1]
    assert [(await waiting[n]).id for n in (0, 2)] == ["a", "c"]


async def test_what_was_given_up_before_it_went_is_not_handed_in(
    desk: Desk, run: OpenRun, road: Road
) -> None:
    road.close()
    first = asyncio.create_task(run.submit([task("a")]))
    await turns()
    given_up, other = (asyncio.create_task(run.submit([task(id)])) for id in "bc")
    await turns()
    given_up.cancel()
    await turns()
    road.open()
    await asyncio.gather(first, other)
    await desk.receive()
    assert [[t.id for t in taken.tasks] for taken in desk.taken] == [["a"], ["c"]]
    await run.submit([task("b")])
    assert [t.id for t in (await desk.take()).tasks] == ["b"]


async def test_what_depends_on_other_tasks_goes_alone(desk: Desk, run: OpenRun) -> None:
    calls = ([task("a", depends_on=("b",))], [task("b", depends_on=("a",))], [task("c")])
    await asyncio.gather(*(run.submit(call) for call in calls))
    await desk.receive()
    assert [[t.id for t in taken.tasks] for taken in desk.taken] == [["a"], ["b"], ["c"]]


async def test_together_they_are_no_more_than_one_submission_takes(
    desk: Desk, run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_MAX_BATCH_TASKS", 4)
    monkeypatch.setattr(run_module, "_MAX_GROUP_BYTES", 1000)
    heavy = task("h", payload={"text": "x" * 900})
    calls = ([task("a"), task("b")], [task("c"), task("d")], [task("e")], [heavy])
    await asyncio.gather(*(run.submit(call) for call in calls))
    while len(desk.taken) < 3:
        await desk.receive()
    sizes = [[t.id for t in taken.tasks] for taken in desk.taken]
    assert sizes == [["a", "b", "c", "d"], ["e"], ["h"]]


@pytest.mark.usefixtures("impatient")
async def test_what_has_ended_is_not_spoilt_by_what_went_with_it(desk: Desk, run: OpenRun) -> None:
    one, other = await asyncio.gather(run.submit([task("a")]), run.submit([task("b")]))
    await desk.accept(await desk.take())
    await desk.end("nightly-1", "a")
    await desk.answer(await desk.question(), RunStatus.COMPLETED)
    with pytest.raises(SkillqError, match=r"task b: .* does not know it any more"):
        await anext(other)
    assert [ended.id async for ended in one] == ["a"]


async def test_an_end_that_is_told_before_a_task_is_handed_in_is_not_its_own(
    desk: Desk, run: OpenRun, road: Road
) -> None:
    road.close()
    first = asyncio.create_task(run.submit([task("a")]))
    await turns()
    second = asyncio.create_task(run.result(task("b")))
    await turns()
    await desk.end("nightly-1", "b")
    await turns()
    road.open()
    await first
    await desk.receive()
    assert [t.id for t in desk.taken[-1].tasks] == ["b"]
    assert not second.done()
    await desk.end("nightly-1", "b")
    assert (await second).id == "b"


async def test_who_waits_for_their_turn_when_the_run_is_closed_is_told(
    client: Client, road: Road
) -> None:
    road.close()
    async with client.open("Nightly 1") as run:
        waiting = [asyncio.create_task(run.submit([task("a")]))]
        await turns()
        waiting.append(asyncio.create_task(run.submit([task("b")])))
        await turns()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert ["was closed" in str(outcome) for outcome in outcomes] == [True, True]


async def test_where_some_of_what_is_refused_had_ended_elsewhere_all_others_are_judged_alone(
    desk: Desk, run: OpenRun
) -> None:
    """The end of a task of the same name, of another definition, may be told before the refusal."""
    waiting = [asyncio.create_task(run.result(task(id))) for id in "abc"]
    id = (await desk.take()).submission_id
    await desk.end("nightly-1", "b")
    await desk.say("nightly-1", RunStatus.REFUSED, submission_id=id, reason="b is another")
    desk.taken.clear()
    while len(desk.taken) < 2:
        await desk.receive()
    assert [[t.id for t in taken.tasks] for taken in desk.taken] == [["a"], ["c"]]
    await desk.end("nightly-1", "a", "c")
    assert [(await one).id for one in waiting] == ["a", "b", "c"]
    assert not run._open_submissions


async def test_a_call_that_was_refused_alone_names_the_reason_though_a_part_of_it_has_ended(
    desk: Desk, run: OpenRun
) -> None:
    results = await run.submit([task("a"), task("b")])
    id = (await desk.take()).submission_id
    await desk.end("nightly-1", "a")
    await desk.say("nightly-1", RunStatus.REFUSED, submission_id=id, reason="no room")
    assert (await anext(results)).id == "a"
    with pytest.raises(UsageError, match="no room"):
        await anext(results)


async def test_a_run_that_was_closed_takes_nothing_more(desk: Desk, client: Client) -> None:
    async with client.open("Nightly 1") as run:
        pass
    with pytest.raises(SkillqError, match="was closed"):
        await run.result(task("a"))


@pytest.mark.usefixtures("impatient")
async def test_of_many_that_went_together_each_that_is_lost_is_told_to_its_own(
    desk: Desk, run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "MAX_QUERIED_TASKS", 2)
    a, b, c = (asyncio.create_task(run.result(task(id))) for id in "abc")
    await desk.accept(await desk.take())
    asked = await desk.question()
    assert asked.tasks == ("a", "b")
    await desk.answer(asked, RunStatus.COMPLETED, "b")
    asked = await desk.question()
    assert asked.tasks == ("c",)
    await desk.answer(asked, RunStatus.COMPLETED, "c")
    with pytest.raises(SkillqError, match="task a: its run has ended"):
        await a
    assert [(await one).id for one in (b, c)] == ["b", "c"]
    assert not run._open_submissions


async def test_what_could_not_be_handed_in_leaves_nothing_and_may_come_again(
    desk: Desk, run: OpenRun, road: Road
) -> None:
    road.fails = True
    calls = [asyncio.create_task(run.submit([task(id)])) for id in "abc"]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unreachable] * 3
    assert not run._open_submissions
    road.fails = False
    again = [asyncio.create_task(run.result(task(id))) for id in "abc"]
    await desk.take()
    await desk.end("nightly-1", *"abc")
    assert [(await one).id for one in again] == ["a", "b", "c"]


async def test_who_gives_up_on_the_way_is_missed_by_nobody_and_may_hand_in_again(
    desk: Desk, run: OpenRun, road: Road
) -> None:
    road.close()
    given_up, other = (asyncio.create_task(run.result(task(id))) for id in "ab")
    await turns()
    given_up.cancel()
    await turns()
    road.open()
    together = await desk.take()
    assert [t.id for t in together.tasks] == ["a", "b"]
    again = asyncio.create_task(run.result(task("a")))
    await desk.take()
    await desk.end("nightly-1", "a", "b")
    assert (await other).id == "b"
    assert (await again).id == "a"
    assert not run._open_submissions


@pytest.mark.usefixtures("impatient")
async def test_what_nobody_has_is_handed_in_again_without_what_is_given_up(
    desk: Desk, run: OpenRun
) -> None:
    waiting = [asyncio.create_task(run.result(task(id))) for id in "abc"]
    first = await desk.take()
    waiting[0].cancel()
    await desk.end("nightly-1", "b")
    await desk.answer(await desk.question(), RunStatus.UNKNOWN)
    again = await desk.take()
    assert (again.submission_id, [t.id for t in again.tasks]) == (first.submission_id, ["c"])
    await desk.end("nightly-1", "c")
    assert (await waiting[2]).id == "c"


async def test_a_defect_while_results_are_heard_ends_no_wait_in_silence(
    desk: Desk, run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(news: object) -> None:
        raise KeyError("a defect")

    waiting = asyncio.create_task(run.result(task("a")))
    await desk.take()
    monkeypatch.setattr(run, "handle_event", fail)
    await desk.end("nightly-1", "a")
    with pytest.raises(KeyError):
        await waiting


async def hear_an_answer(desk: Desk, run: OpenRun) -> None:
    """The manager is there."""
    first = asyncio.create_task(run.result(task("first")))
    await desk.accept(await desk.take())
    await desk.end("nightly-1", "first")
    await first
    desk.taken.clear()


def ids(desk: Desk) -> list[list[str]]:
    return [[task.id for task in taken.tasks] for taken in desk.taken]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("heard", ["accepted", "ended"])
async def test_after_several_that_went_together_the_next_go_when_these_are_answered(
    desk: Desk, run: OpenRun, heard: str
) -> None:
    await hear_an_answer(desk, run)
    await asyncio.gather(run.submit([task("a"), task("a2")]), run.submit([task("b")]))
    taken = await desk.take()
    waiting = [asyncio.create_task(run.submit([task(id)])) for id in "cd"]
    await turns()
    assert not any(one.done() for one in waiting)
    if heard == "accepted":
        await desk.accept(taken)
    else:
        await desk.end("nightly-1", "a")
    await asyncio.gather(*waiting)
    while ["c", "d"] not in ids(desk):
        await desk.receive()


@pytest.mark.usefixtures("patient")
async def test_once_they_are_accepted_the_next_wait_until_one_of_them_has_ended(
    desk: Desk, run: OpenRun, clock: SkippingLoop
) -> None:
    await hear_an_answer(desk, run)
    older = asyncio.create_task(run.submit([task("old")]))
    await desk.take()
    await asyncio.gather(older, *(run.submit([task(id)]) for id in "ab"))
    taken = await desk.take()
    waiting = asyncio.create_task(run.submit([task("c")]))
    clock.advance(100)
    await desk.accept(taken)
    await turns()
    assert not waiting.done()
    await desk.end("nightly-1", "b", "old")
    await waiting


@pytest.mark.usefixtures("patient")
async def test_where_all_have_given_up_on_the_way_the_next_wait_for_no_answer(
    desk: Desk, run: OpenRun, road: Road
) -> None:
    await hear_an_answer(desk, run)
    road.close()
    calls = [asyncio.create_task(run.submit([task(id)])) for id in "ab"]
    await turns()
    for call in calls:
        call.cancel()
    await turns()
    road.open()
    await run.submit([task("c")])
    await desk.receive()
    assert ids(desk) == [["a", "b"], ["c"]]


@pytest.mark.usefixtures("patient")
async def test_an_answer_to_an_older_submission_lets_nothing_go(desk: Desk, run: OpenRun) -> None:
    older = asyncio.create_task(run.submit([task("old")]))
    taken = await desk.take()
    await hear_an_answer(desk, run)
    await asyncio.gather(older, *(run.submit([task(id)]) for id in "ab"))
    waiting = asyncio.create_task(run.submit([task("c")]))
    await desk.accept(taken)
    await desk.end("nightly-1", "old")
    await turns()
    await desk.receive()
    assert ids(desk) == [["a", "b"]]
    waiting.cancel()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("given_up", ["b", "bc"])
async def test_where_all_but_one_have_given_up_the_next_wait_for_no_answer(
    desk: Desk, run: OpenRun, road: Road, given_up: str
) -> None:
    await hear_an_answer(desk, run)
    road.close()
    calls: dict[str, asyncio.Task[Results]] = {}
    for together in ("a", "bc"):
        for id in together:
            calls[id] = asyncio.create_task(run.submit([task(id)]))
        await turns()
    for id in given_up:
        calls.pop(id).cancel()
    await turns()
    road.open()
    await asyncio.gather(*calls.values())
    await run.submit([task("d")])
    await desk.receive()
    assert ids(desk) == [[id] for id in "abcd" if id not in given_up]
