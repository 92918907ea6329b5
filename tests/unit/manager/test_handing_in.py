"""Submissions, with real clients: taken or refused as a whole, done by whoever leads next, never asked for in vain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from skillq import timings, topology
from skillq.client.submission import follow_submission
from skillq.errors import Unreachable, UsageError
from skillq.messages import (
    RunStatus,
    StatusQuery,
    Stop,
    Submission,
    Task,
    TaskStatus,
    encode_submission,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker
from skillq_manager.inbound import multipart as parts_module
from skillq_manager.leadership import queues
from skillq_manager.store.base import RunRow
from tests.support.factories import task
from tests.unit.manager.ear import listening, put, stored, waiting
from tests.unit.manager.plant import Plant, tasks
from tests.unit.wire import Wire
from tests.unit.worker.boss import until

SUCCEEDED = TaskStatus.SUCCEEDED


# --- in parts --------------------------------------------------------------------------------


def both_ways() -> list[Task]:
    """Ten tasks, of which the first depends on the last, and others on earlier ones."""
    return [
        task("0", depends_on=("9",)),
        *(task(str(n), depends_on=("9",)) for n in range(1, 9)),
        task("9"),
    ]


@pytest.mark.usefixtures("cut")
async def test_a_submission_in_parts_is_answered_once_and_done() -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        await plant.hand("Ada")
        assert (await plant.complete(*both_ways())).counts == {SUCCEEDED: 10}
        (answer,) = ear.answers(RunStatus.ACCEPTED)
        assert (answer.accepted, answer.known) == (10, 0)
        await until(lambda: waiting(plant) == 0)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (task("x", depends_on=("nowhere",)), "task x depends on nowhere"),
        (task("old", difficulty=9), "task old is already in run default with another definition"),
        (task("9", depends_on=("0",)), "depends on itself"),
    ],
)
async def test_one_bad_task_has_all_parts_refused_and_none_of_them_done(
    bad: Task, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "skillq.client.submission.check_tasks", lambda _: None
    )  # whoever hands them in
    async with Plant() as plant:
        await plant.hand("Ada")
        await plant.complete(task("old"))
        some = [t for t in both_ways() if t.id != bad.id]
        with pytest.raises(UsageError, match=reason):
            await plant.complete(*some, bad)
        assert await stored(plant) == ["old"]
        await until(lambda: waiting(plant) == 0)


async def test_where_two_parts_have_one_task_all_are_refused() -> None:
    briefs = [task(id).to_wire() for id in "aba"]
    parts = [
        encode_submission("s", "default", "default", [brief], part=number, parts=3)
        for number, brief in enumerate(briefs, 1)
    ]
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        await put(plant, [Outgoing(part, "submission") for part in parts])
        await until(lambda: ear.answers(RunStatus.REFUSED))
        (answer,) = ear.answers(RunStatus.REFUSED)
        assert "task a: two tasks have this id" in str(answer.reason)
        assert await stored(plant) == []


@pytest.mark.usefixtures("cut")
async def test_the_order_of_parts_does_not_matter_and_copies_of_them_do_no_harm() -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        messages = follow_submission("default", both_ways()).messages
        await put(plant, [*reversed(messages[1:]), *messages[1:]])
        await until(lambda: waiting(plant) == len(messages) - 1)
        assert await stored(plant) == []
        await put(plant, messages[:1])
        await until(lambda: ear.answers(RunStatus.ACCEPTED))
        assert await stored(plant) == [str(n) for n in range(10)]
        await put(plant, messages[:2])  # as when acknowledgements were lost
        await until(lambda: waiting(plant) == 0)
        assert len(ear.answers(RunStatus.ACCEPTED)) == 1


@pytest.mark.usefixtures("cut")
async def test_parts_that_a_manager_had_when_it_left_are_there_for_the_next() -> None:
    messages = follow_submission("default", both_ways()).messages
    async with Plant() as first:
        await put(first, messages[:-1])
        await until(lambda: len(first.manager._multipart) == len(messages) - 1)
        first.manager.stop()
        await first.running
        async with Plant(broker=first.broker) as second:
            await second.hand("Ada")
            await put(second, messages[-1:])
            await until(lambda: second.completed)
            assert len(await stored(second)) == 10
            assert waiting(second) == 0


@pytest.mark.usefixtures("cut")
async def test_parts_whose_rest_does_not_come_are_refused_and_keep_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "PARTS_SILENCE_SECONDS", 0.1)
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        messages = follow_submission("default", both_ways()).messages
        await put(plant, messages[1:-1])
        await until(lambda: ear.answers(RunStatus.REFUSED))
        (answer,) = ear.answers(RunStatus.REFUSED)
        assert str(answer.reason).startswith("2 of the 5 messages of this submission did not come")
        await put(plant, messages[-1:])
        await until(lambda: waiting(plant) == 0)
        assert await stored(plant) == []


@pytest.mark.usefixtures("cut")
async def test_parts_of_what_an_earlier_manager_took_in_are_not_refused_when_they_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It died when it had acknowledged some of them."""
    monkeypatch.setattr(timings, "PARTS_SILENCE_SECONDS", 0.05)
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        messages = follow_submission("default", both_ways()).messages
        await put(plant, messages)
        await until(lambda: ear.answers(RunStatus.ACCEPTED))
        plant.manager._status_queries._answers.clear()
        await put(plant, messages[1:])
        await until(lambda: len(plant.manager._multipart) == len(messages) - 1)
        await until(lambda: waiting(plant) == 0)
        assert not ear.answers(RunStatus.REFUSED)


@pytest.mark.usefixtures("cut")
async def test_however_many_large_submissions_come_at_once_all_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their parts are mixed, and there is room for few of them: none would ever be whole."""
    monkeypatch.setattr(queues, "PREFETCH", 12)
    monkeypatch.setattr(parts_module, "MAX_HELD_PARTS", 8)
    monkeypatch.setattr(timings, "PARTS_REQUEUE_SECONDS", 0.01)
    wire = Wire(broker := MemoryBroker())
    wire.fails = lambda key: key == "submit.x" and len(wire.failed) < 3
    async with (
        Plant(broker=broker, transport=wire) as plant,
        listening(plant, topology.EVENTS) as ear,
    ):
        handed = [follow_submission(f"run {n}", tasks(10)).messages for n in range(8)]
        await put(plant, [message for several in zip(*handed, strict=True) for message in several])
        await until(lambda: len(ear.answers(RunStatus.ACCEPTED)) == len(handed))
        assert {(e.accepted, e.known) for e in ear.answers(RunStatus.ACCEPTED)} == {(10, 0)}
        await until(lambda: waiting(plant) == 0)
        assert len(wire.failed) == 3


# --- when all is done ------------------------------------------------------------------------


@asynccontextmanager
async def leaving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plant]:
    """A manager that has done all, and waits in vain for a worker to leave."""
    monkeypatch.setattr(timings, "STOP_SECONDS", 0.5)
    async with Plant(stop_when_done=True) as plant, listening(plant, topology.COMMANDS) as ear:
        await plant.hand("Ada", 9)
        await plant.meet("Ghost", 10)
        await plant.complete(*tasks(1), run="first")
        await until(lambda: ear.of(Stop))
        yield plant


async def test_what_is_submitted_while_a_manager_leaves_is_done_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with leaving(monkeypatch) as first:
        client = await first.client()
        assert await client.submit("second", tasks(3), wait=0.1) is None
        assert not first.running.done()
        await first.running
        assert await stored(first, "second") == []
        async with Plant(broker=first.broker) as second:
            await second.hand("Bob")
            await until(lambda: second.completed == ["second"])


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_follows_waits_for_the_next_manager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with leaving(monkeypatch) as first, listening(first, topology.SUBMISSIONS) as ear:
        running = asyncio.create_task(first.complete(*tasks(3), run="second"))
        await first.running
        async with Plant(broker=first.broker) as second:
            await second.hand("Bob")
            assert (await running).counts == {SUCCEEDED: 3}
        assert len(ear.of(Submission)) == 1
        assert ear.of(StatusQuery)


async def test_who_asks_a_leaving_manager_for_more_work_is_told_to_ask_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with leaving(monkeypatch) as plant:
        given = Submission(submission_id="1", run="late", run_title="late", tasks=(task(),))
        with pytest.raises(Unreachable, match="ask again"):
            await plant.manager.submit(given)
        with pytest.raises(Unreachable, match="ask again"):
            await plant.manager.retry([("first", "0")])
        await plant.running
        assert await stored(plant, "late") == []


async def test_a_manager_does_not_leave_while_a_submission_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillq.client.submission.TASKS_BYTES", 110)
    async with Plant(stop_when_done=True) as plant:
        await plant.hand("Ada")
        messages = follow_submission("second", tasks(10)).messages
        await put(plant, messages[:-1])
        await until(lambda: len(plant.manager._multipart) == len(messages) - 1)
        await plant.complete(*tasks(1), run="first")
        assert not plant.running.done()
        await put(plant, messages[-1:])
        await until(plant.running.done)
        assert plant.completed == ["first", "second"]


# --- what the store is asked -------------------------------------------------------------------


@asynccontextmanager
async def questions(patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Plant, list[str]]]:
    """A plant without workers, and the runs for which its store is asked."""
    async with Plant() as plant:
        asked: list[str] = []
        look_up = plant.store.run

        async def note(run: str) -> RunRow | None:
            asked.append(run)
            return await look_up(run)

        patch.setattr(plant.store, "run", note)
        yield plant, asked


def of_run(run: str, id: str, title: str = "") -> Submission:
    return Submission(submission_id=uuid4().hex, run=run, run_title=title or run, tasks=(task(id),))


async def test_the_store_is_asked_once_for_a_run_however_many_submissions_are_decided_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once for each would be a hop to its thread for each, one after the other, before any is decided."""
    async with questions(monkeypatch) as (plant, asked):
        together = [of_run(run, str(n)) for n in range(3) for run in ("one", "other")]
        await asyncio.gather(*map(plant.manager.submit, together))
        assert asked == ["one", "other"]


async def test_a_run_that_is_added_to_again_and_again_is_looked_up_until_it_is_there_and_keeps_its_title(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with questions(monkeypatch) as (plant, asked):
        for n in range(5):
            assert (await plant.manager.submit(of_run("one", str(n)))).accepted == 1
        assert asked == ["one"] * 2
        refused = await plant.manager.submit(of_run("one", "9", title="One!"))
        assert "run 'One!' would be one on the wire" in (refused.reason or "")


async def test_the_titles_that_are_kept_are_not_more_and_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillq_manager.inbound.triage._MAX_TITLES", 1)
    async with questions(monkeypatch) as (plant, asked):
        for n, run in enumerate(("one", "one", "other", "other", "one")):
            await plant.manager.submit(of_run(run, str(n)))
        assert asked == ["one", "one", "other", "other", "one"]
