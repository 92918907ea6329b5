"""A client that has heard nothing asks, and is told what became of what it handed in."""

import asyncio
from collections.abc import Iterable

import pytest

from skillq import timings, topology
from skillq.client import Receipt, RunResult
from skillq.client.submission import follow_submission
from skillq.errors import TransportError
from skillq.messages import (
    RunStatus,
    StatusQuery,
    Submission,
    TaskEvent,
    TaskEvents,
    TaskStatus,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker
from skillq_manager.core.commands import Command
from skillq_manager.core.events import Event, SubmissionReceived
from skillq_worker.execution.executor import CancelJob, Job, run_in_task
from tests.support.factories import task
from tests.unit.manager.ear import listening, put
from tests.unit.manager.hands import Count
from tests.unit.manager.plant import Plant, tasks
from tests.unit.wire import Wire
from tests.unit.worker.boss import until

SUCCEEDED = TaskStatus.SUCCEEDED


# --- what clients ask ------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_a_run_that_takes_long_is_asked_about_and_not_submitted_again() -> None:
    async with Plant() as plant, listening(plant, topology.SUBMISSIONS) as ear:
        count = Count(held=True)
        await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: len(ear.of(StatusQuery)) >= 3)
        count.let_go()
        assert (await running).has_succeeded
        assert len(ear.of(Submission)) == 1
        assert max(len(Outgoing.from_message(asked).body) for asked in ear.of(StatusQuery)) < 250


@pytest.mark.usefixtures("impatient")
async def test_an_answer_and_an_end_that_were_missed_are_told_when_asked_for() -> None:
    """The manager could publish no events, as when the client was reconnecting."""
    wire = Wire(broker := MemoryBroker())
    wire.fails = lambda key: key.startswith(("run.", "task."))
    async with Plant(broker=broker, transport=wire) as plant:
        await plant.hand("Ada")
        async with listening(plant, topology.SUBMISSIONS) as ear:
            result = await plant.complete(*tasks(3))
        assert told(result) == {str(n): (SUCCEEDED, "Ada") for n in range(3)}
        assert len(ear.of(Submission)) == 1
        assert wire.failed


def told(result: RunResult) -> dict[str, tuple[TaskStatus, str | None]]:
    return {id: (event.status, event.worker) for id, event in result.tasks.items()}


async def test_a_run_that_had_ended_is_told_with_all_its_tasks_and_not_announced_again() -> None:
    async with Plant() as plant:
        await plant.hand("Ada")
        first = await plant.complete(*tasks(3))
        events: list[TaskEvent] = []
        client = await plant.client()
        async with asyncio.timeout(5):
            again = await client.complete("default", tasks(3), events.append)
        assert (again.counts, told(again)) == (first.counts, told(first))
        assert {e.id: e.output for e in events} == {id: e.output for id, e in first.tasks.items()}
        assert plant.completed == ["default"]
        assert await client.submit("default", tasks(3)) == Receipt(0, 3)


async def test_only_what_a_client_submitted_is_told_and_only_to_it() -> None:
    async with Plant() as plant:
        await plant.hand("Ada")
        await plant.complete(*tasks(5))
        async with listening(plant, topology.EVENTS) as ear:
            result = await plant.complete(*tasks(2))
            await until(ear.standings)
        assert list(result.tasks) == ["0", "1"]
        assert not ear.of(TaskEvents)


async def test_outputs_that_do_not_fit_into_one_message_come_in_several() -> None:
    async with Plant() as plant:
        await plant.hand("Ada", 5, Large())
        first = await plant.complete(*tasks(12))
        async with listening(plant, topology.EVENTS) as ear:
            again = await plant.complete(*tasks(12))
            await until(lambda: ear.standings() and not ear.standings()[-1].more)
        assert outputs(again) == outputs(first)
        assert [said.more for said in ear.standings()] == [True, True, True, False]


def outputs(result: RunResult) -> dict[str, object]:
    return {id: event.output for id, event in result.tasks.items()}


class Large:
    """An executor with large outputs."""

    types = None

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(), job)

    async def _work(self) -> str:
        return "x" * 200_000


@pytest.mark.usefixtures("impatient")
async def test_the_next_manager_of_a_store_knows_what_the_last_took_in() -> None:
    async with Plant() as first, listening(first, topology.SUBMISSIONS) as ear:
        count = Count(held=True)
        hand = await first.hand("Ada", 5, count)
        running = asyncio.create_task(first.complete(*tasks(2)))
        await until(lambda: count.begun)
        first.manager.stop()
        await first.running
        async with Plant(broker=first.broker, store=first.store) as second:
            await until(lambda: second.entry(hand.profile) is not None)
            asked = len(ear.of(StatusQuery))
            await until(lambda: len(ear.of(StatusQuery)) > asked + 1)
            count.let_go()
            assert (await running).counts == {SUCCEEDED: 2}
        assert len(ear.of(Submission)) == 1


async def test_who_asks_about_a_submission_that_nobody_knows_is_told_so() -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        for number, store in enumerate(("", "another", plant.store.id)):
            asked = StatusQuery(submission_id="s", number=number, run="nowhere", store=store)
            await plant.say(topology.SUBMISSIONS, "submit.x", asked)
        await until(lambda: len(ear.standings()) == 3)
        answers = ear.standings()
        assert {(a.submission_id, a.status) for a in answers} == {("s", RunStatus.UNKNOWN)}
        assert [a.number for a in answers] == [0, 1, 2]


async def test_a_refusal_is_told_again_to_who_asks() -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        handed = follow_submission("default", [task("a", depends_on=("gone",))])
        await put(plant, handed.messages)
        await put(plant, [handed.next_query()])
        await until(ear.standings)
        (answer,) = ear.standings()
        assert answer.status is RunStatus.REFUSED
        assert "depends on gone" in str(answer.reason)


async def test_a_question_that_the_store_cannot_answer_now_is_left_to_be_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        handed = follow_submission("default", tasks(1))
        await put(plant, handed.messages)
        await until(lambda: ear.answers(RunStatus.ACCEPTED))
        with monkeypatch.context() as patch:

            async def fail(run: str) -> None:
                failed.append(run)
                raise TransportError("the test says no")

            failed: list[str] = []
            patch.setattr(plant.store, "run", fail)
            await put(plant, [handed.next_query()])
            await until(lambda: failed)
        await put(plant, [handed.next_query()])
        await until(ear.standings)
        (answer,) = ear.standings()
        assert (answer.number, answer.status) == (2, RunStatus.ACCEPTED)


async def test_the_lease_is_renewed_before_much_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is decided nothing else is done: another would take the lead, and begin with the same."""
    monkeypatch.setattr("skillq_manager.inbound.triage._LARGE_ROUND_TASKS", 5)
    monkeypatch.setattr(timings, "RENEW_SECONDS", 60.0)
    async with Plant() as plant:
        told: list[str] = []

        async def acquire() -> bool:
            told.append("renewed")
            return True

        handle = plant.manager.state.handle

        def decide(events: Iterable[Event], now: float) -> list[Command]:
            given = list(events)
            told.extend("decided" for event in given if isinstance(event, SubmissionReceived))
            return handle(given, now)

        monkeypatch.setattr(plant.store, "acquire", acquire)
        monkeypatch.setattr(plant.manager.state, "handle", decide)
        client = await plant.client()
        await client.submit("few", tasks(3))
        await client.submit("many", tasks(6))
        assert told == ["decided", "renewed", "decided"]
