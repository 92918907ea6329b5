"""Submissions, with real clients: taken or refused as a whole, done by whoever leads next, never asked for in vain."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import pytest

from skillq import topology
from skillq.client import Receipt, RunResult
from skillq.errors import TransportError, Unreachable, UsageError
from skillq.handed import hand_in
from skillq.messages import (
    Inquiry,
    Message,
    RunEvent,
    RunStatus,
    Standing,
    Stop,
    Submission,
    Task,
    TaskEvent,
    TaskEvents,
    TaskStatus,
    decode,
)
from skillq.transport import Consumer, Outgoing
from skillq.transport.memory import MemoryBroker
from skillq_manager import manager as module
from skillq_manager import parts as parts_module
from skillq_manager.core.commands import Command, Event, Submitted
from skillq_manager.store.base import Filter
from tests.factories import task
from tests.unit.manager.hands import Count, Wire
from tests.unit.manager.plant import Plant, tasks
from tests.unit.worker.boss import until

SUCCEEDED = TaskStatus.SUCCEEDED


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks at most fit into one message."""
    monkeypatch.setattr("skillq.handed._ROOM_BYTES", 700)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skillq.client._SILENCE_SECONDS", 0.1)


class Ear:
    """Hears all that goes through an exchange."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.heard: list[Message] = []

    async def listen(self) -> None:
        while True:
            deliveries = await self._consumer.batch()
            await self._consumer.ack(deliveries)
            self.heard += [decode(delivery.body) for delivery in deliveries]

    def of(self, *kinds: type[Message]) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kinds)]

    def standings(self) -> list[Standing]:
        return [m for m in self.heard if isinstance(m, Standing)]

    def answers(self, status: RunStatus) -> list[RunEvent]:
        return [m for m in self.heard if isinstance(m, RunEvent) and m.status is status]


@asynccontextmanager
async def listening(plant: Plant, exchange: str) -> AsyncIterator[Ear]:
    ear = Ear(await plant.voice.subscribe(exchange, ["#"]))
    listens = asyncio.create_task(ear.listen())
    try:
        yield ear
    finally:
        listens.cancel()
        await asyncio.gather(listens, return_exceptions=True)


async def put(plant: Plant, messages: Sequence[Outgoing]) -> None:
    for message in messages:
        await plant.voice.publish(topology.SUBMISSIONS, "submit.x", message)


async def stored(plant: Plant, run: str = "default") -> list[str]:
    return [row.task.id for row in await plant.store.tasks(Filter(run=run))]


def waiting(plant: Plant) -> int:
    """Messages that are with the broker: ready, or not acknowledged."""
    queue = plant.broker._queues[topology.MANAGER_SUBMISSIONS]
    return len(queue._ready) + sum(len(consumer._unacked) for consumer in queue.consumers)


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
        assert waiting(plant) == 0


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (task("x", depends_on=("nowhere",)), "task x depends on nowhere"),
        (task("0"), "task 0: two tasks have this id"),
        (task("old", difficulty=9), "task old is already in run default with another definition"),
        (task("9", depends_on=("0",)), "depends on itself"),
    ],
)
async def test_one_bad_task_has_all_parts_refused_and_none_of_them_done(
    bad: Task, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq.handed.check_tasks", lambda _: None)  # whoever hands them in
    async with Plant() as plant:
        await plant.hand("Ada")
        await plant.complete(task("old"))
        some = [t for t in both_ways() if t.id != bad.id or bad.id == "0"]
        with pytest.raises(UsageError, match=reason):
            await plant.complete(*some, bad)
        assert await stored(plant) == ["old"]
        assert waiting(plant) == 0


@pytest.mark.usefixtures("cut")
async def test_the_order_of_parts_does_not_matter_and_copies_of_them_do_no_harm() -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        messages = hand_in("default", both_ways()).messages
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
    messages = hand_in("default", both_ways()).messages
    async with Plant() as first:
        await put(first, messages[:-1])
        await until(lambda: len(first.manager._parts) == len(messages) - 1)
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
    monkeypatch.setattr(parts_module, "SILENCE_SECONDS", 0.1)
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        messages = hand_in("default", both_ways()).messages
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
    monkeypatch.setattr(parts_module, "SILENCE_SECONDS", 0.05)
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        messages = hand_in("default", both_ways()).messages
        await put(plant, messages)
        await until(lambda: ear.answers(RunStatus.ACCEPTED))
        plant.manager._inquiries._decided.clear()
        await put(plant, messages[1:])
        await until(lambda: len(plant.manager._parts) == len(messages) - 1)
        await until(lambda: waiting(plant) == 0)
        assert not ear.answers(RunStatus.REFUSED)


@pytest.mark.usefixtures("cut")
async def test_however_many_large_submissions_come_at_once_all_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their parts are mixed, and there is room for few of them: none would ever be whole."""
    monkeypatch.setattr(module, "PREFETCH", 12)
    monkeypatch.setattr(parts_module, "ROOM", 8)
    monkeypatch.setattr(parts_module, "TURN_SECONDS", 0.01)
    wire = Wire(broker := MemoryBroker())
    wire.fails = lambda key: key == "submit.x" and len(wire.failed) < 3
    async with (
        Plant(broker=broker, transport=wire) as plant,
        listening(plant, topology.EVENTS) as ear,
    ):
        handed = [hand_in(f"run {n}", tasks(10)).messages for n in range(8)]
        await put(plant, [message for several in zip(*handed, strict=True) for message in several])
        await until(lambda: len(ear.answers(RunStatus.ACCEPTED)) == len(handed))
        assert {(e.accepted, e.known) for e in ear.answers(RunStatus.ACCEPTED)} == {(10, 0)}
        await until(lambda: waiting(plant) == 0)
        assert len(wire.failed) == 3


# --- when all is done ------------------------------------------------------------------------


@asynccontextmanager
async def leaving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plant]:
    """A manager that has done all, and waits in vain for a worker to leave."""
    monkeypatch.setattr(module, "STOP_SECONDS", 0.5)
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
        assert ear.of(Inquiry)


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
    monkeypatch.setattr("skillq.handed._ROOM_BYTES", 700)
    async with Plant(stop_when_done=True) as plant:
        await plant.hand("Ada")
        messages = hand_in("second", tasks(10)).messages
        await put(plant, messages[:-1])
        await until(lambda: len(plant.manager._parts) == len(messages) - 1)
        await plant.complete(*tasks(1), run="first")
        assert not plant.running.done()
        await put(plant, messages[-1:])
        await until(plant.running.done)
        assert plant.completed == ["first", "second"]


# --- what clients ask ------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_a_run_that_takes_long_is_asked_about_and_not_submitted_again() -> None:
    async with Plant() as plant, listening(plant, topology.SUBMISSIONS) as ear:
        count = Count(held=True)
        await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: len(ear.of(Inquiry)) >= 3)
        count.let_go()
        assert (await running).has_succeeded
        assert len(ear.of(Submission)) == 1
        assert max(len(Outgoing.of(asked).body) for asked in ear.of(Inquiry)) < 250


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

    async def execute(self, task: object) -> str:
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
            asked = len(ear.of(Inquiry))
            await until(lambda: len(ear.of(Inquiry)) > asked + 1)
            count.let_go()
            assert (await running).counts == {SUCCEEDED: 2}
        assert len(ear.of(Submission)) == 1


async def test_who_asks_about_a_submission_that_nobody_knows_is_told_so() -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        for number, store in enumerate(("", "another", plant.store.id)):
            asked = Inquiry(submission_id="s", number=number, run="nowhere", store=store)
            await plant.say(topology.SUBMISSIONS, "submit.x", asked)
        await until(lambda: len(ear.standings()) == 3)
        answers = ear.standings()
        assert {(a.submission_id, a.status) for a in answers} == {("s", RunStatus.UNKNOWN)}
        assert [a.number for a in answers] == [0, 1, 2]


async def test_a_refusal_is_told_again_to_who_asks() -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        handed = hand_in("default", [task("a", depends_on=("gone",))])
        await put(plant, handed.messages)
        await put(plant, [handed.inquiry()])
        await until(ear.standings)
        (answer,) = ear.standings()
        assert answer.status is RunStatus.REFUSED
        assert "depends on gone" in str(answer.reason)


async def test_a_question_that_the_store_cannot_answer_now_is_left_to_be_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Plant() as plant, listening(plant, topology.EVENTS) as ear:
        handed = hand_in("default", tasks(1))
        await put(plant, handed.messages)
        await until(lambda: ear.answers(RunStatus.ACCEPTED))
        with monkeypatch.context() as patch:

            async def fail(run: str) -> None:
                failed.append(run)
                raise TransportError("the test says no")

            failed: list[str] = []
            patch.setattr(plant.store, "run", fail)
            await put(plant, [handed.inquiry()])
            await until(lambda: failed)
        await put(plant, [handed.inquiry()])
        await until(ear.standings)
        (answer,) = ear.standings()
        assert (answer.number, answer.status) == (2, RunStatus.ACCEPTED)


async def test_the_lease_is_renewed_before_much_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is decided nothing else is done: another would take the lead, and begin with the same."""
    monkeypatch.setattr("skillq_manager.sorting._MANY", 5)
    monkeypatch.setattr(module, "RENEW_SECONDS", 60.0)
    async with Plant() as plant:
        told: list[str] = []

        async def acquire() -> bool:
            told.append("renewed")
            return True

        handle = plant.manager.state.handle

        def decide(events: Iterable[Event], now: float) -> list[Command]:
            given = list(events)
            told.extend("decided" for event in given if isinstance(event, Submitted))
            return handle(given, now)

        monkeypatch.setattr(plant.store, "acquire", acquire)
        monkeypatch.setattr(plant.manager.state, "handle", decide)
        client = await plant.client()
        await client.submit("few", tasks(3))
        await client.submit("many", tasks(6))
        assert told == ["decided", "renewed", "decided"]
