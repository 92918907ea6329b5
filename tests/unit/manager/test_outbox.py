"""Commands become few messages, each cut to fit, and none holds up the loop."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skillq import topology
from skillq.messages import (
    MAX_MESSAGE_BYTES,
    Assignments,
    AttemptRef,
    Cancel,
    Message,
    Outcome,
    RunEvent,
    Stop,
    Task,
    TaskEvent,
    TaskEvents,
    TaskResult,
    TaskStatus,
    WorkerEvent,
    WorkerEventKind,
    WorkerProfile,
    decode,
)
from skillq.transport import Consumer
from skillq.transport.memory import MemoryBroker
from skillq_manager.core import commands as c
from skillq_manager.outbox import Outbox
from skillq_manager.store.memory import MemoryStore
from tests.factories import profile, submission, task
from tests.unit.wire import Wire
from tests.unit.worker.boss import until


class Office:
    """An outbox, and those who hear what it sends."""

    def __init__(self) -> None:
        self.wire = Wire(MemoryBroker())
        self.store = MemoryStore()
        self.fed: list[c.Event] = []
        self.current = self.alone = True
        self.outbox = Outbox(
            self.wire,
            self.store,
            self.fed.append,
            lambda *_: self.current,
            lambda: self.alone,
        )
        self.ada = profile("Ada")

    async def open(self) -> None:
        await self.wire.declare(topology.MANAGER)
        self.events = await self.wire.subscribe(topology.EVENTS, ["#"])

    async def give_queue(self, worker: WorkerProfile) -> Consumer:
        await self.wire.declare(topology.worker_topology(worker.name))
        return await self.wire.consume(topology.worker_queue(worker.name), prefetch=1000)

    async def store_tasks(self, *of: Task) -> None:
        await self.store.commit(
            [
                c.AddTask(("run", t.id), n, "run", t, 0, TaskStatus.READY, 0.0)
                for n, t in enumerate(of)
            ]
        )

    async def send(self, *commands: c.Command) -> None:
        await self.outbox.send(commands)
        await self.outbox.flush(timeout=5)

    def assign(self, id: str, worker: WorkerProfile | None = None) -> c.Assign:
        return c.Assign(("run", id), "task", 1, worker or self.ada, 0.0)


async def said(consumer: Consumer) -> list[Message]:
    async with asyncio.timeout(5):
        deliveries = await consumer.batch()
    await consumer.ack(deliveries)
    return [decode(delivery.body) for delivery in deliveries]


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    office = Office()
    async with office.wire:
        await office.open()
        yield office
        await office.outbox.flush(timeout=0)


async def test_all_assignments_of_a_round_to_one_worker_are_one_message(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    await office.store_tasks(*(task(str(n)) for n in range(50)))
    await office.send(*(office.assign(str(n)) for n in range(50)))
    (message,) = await said(queue)
    assert isinstance(message, Assignments)
    assert [t.id for t in message.tasks] == [str(n) for n in range(50)]
    assert (message.worker, message.incarnation, message.store) == ("ada", "1", office.store.id)


async def test_two_starts_of_one_worker_are_told_apart_even_within_a_round(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    await office.store_tasks(task("a"), task("b"))
    heir = profile("Ada", incarnation="2")
    await office.send(c.Resend(("run", "a"), 1, office.ada), office.assign("b", heir))
    messages = await said(queue)
    assert {(m.incarnation, m.tasks[0].id) for m in messages if isinstance(m, Assignments)} == {
        ("1", "a"),
        ("2", "b"),
    }


async def test_an_assignment_carries_all_that_the_work_needs(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    given = task("b", 4, type="ocr", payload={"x": 1}, timeout=3, priority=7, requires=["gpu"],
                 description="Read", depends_on=["a"])  # fmt: skip
    await office.store_tasks(task("a"), given)
    office.store._tasks["run", "a"].output = {"pages": 2}
    await office.send(office.assign("b"))
    (message,) = await said(queue)
    assert isinstance(message, Assignments)
    (sent,) = message.tasks
    assert (sent.task_type, sent.difficulty, sent.payload, sent.timeout) == ("ocr", 4, {"x": 1}, 3)
    assert (sent.priority, sent.requires, sent.description) == (7, ("gpu",), "Read")
    assert sent.dependencies == {"a": {"pages": 2}}


async def test_large_assignments_are_cut_into_messages_that_fit(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    large = {"x": "y" * 250_000}
    await office.store_tasks(*(task(str(n), payload=large) for n in range(9)))
    await office.send(*(office.assign(str(n)) for n in range(9)))
    messages = await said(queue)
    assert 3 <= len(messages) <= 9
    ids = [t.id for m in messages if isinstance(m, Assignments) for t in m.tasks]
    assert sorted(ids) == [str(n) for n in range(9)]


async def test_what_no_message_can_hold_is_given_up_on_with_the_reason(office: Office) -> None:
    parts = [str(n) for n in range(6)]
    await office.store_tasks(*(task(id) for id in parts), task("sum", depends_on=parts), task("x"))
    for id in parts:
        office.store._tasks["run", id].output = "y" * 250_000
    queue = await office.give_queue(office.ada)
    await office.send(office.assign("sum"), office.assign("x"))
    (event,) = office.fed
    assert isinstance(event, c.Undeliverable)
    assert event.attempt.id == "sum"
    assert str(MAX_MESSAGE_BYTES) in event.reason
    (message,) = await said(queue)
    assert isinstance(message, Assignments)
    assert [t.id for t in message.tasks] == ["x"]


async def test_an_assignment_that_comes_back_is_told_and_the_queue_declared(office: Office) -> None:
    await office.store_tasks(task("a"))
    await office.send(office.assign("a"))
    (event,) = office.fed
    assert isinstance(event, c.Returned)
    assert (event.worker, event.incarnation) == ("ada", "1")
    assert [ref.id for ref in event.attempts] == ["a"]
    await office.wire.consume(topology.worker_queue("ada"), prefetch=1)


async def test_an_assignment_that_is_not_confirmed_is_sent_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_manager.outbox._RETRY_SECONDS", 0.01)
    queue = await office.give_queue(office.ada)
    await office.store_tasks(task("a"))
    office.wire.fails = lambda key: key == "assignment.ada" and len(office.wire.failed) < 3
    await office.send(office.assign("a"))
    assert len(await said(queue)) == 1
    assert len(office.wire.failed) == 3


async def test_an_assignment_that_is_wanted_no_more_is_not_sent_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_manager.outbox._RETRY_SECONDS", 0.01)
    await office.store_tasks(task("a"))
    office.wire.fails = lambda _: True
    await office.outbox.send([office.assign("a")])
    await until(lambda: office.wire.failed.count("assignment.ada") >= 2)
    office.current = False
    await office.outbox.flush(timeout=5)
    assert not office.outbox._pending


async def test_assignments_wait_while_another_manager_may_give_the_same_ones_out(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_manager.outbox._RETRY_SECONDS", 0.01)
    queue = await office.give_queue(office.ada)
    await office.store_tasks(task("a"))
    office.alone = False
    await office.outbox.send([office.assign("a")])
    waiting = asyncio.create_task(said(queue))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    office.alone = True
    (message,) = await waiting
    assert message.type == "assignment"


async def test_a_worker_that_cannot_be_reached_holds_up_no_other(office: Office) -> None:
    bob = profile("Bob")
    queue = await office.give_queue(bob)
    await office.store_tasks(task("a"), task("b"))
    office.wire.fails = lambda key: key == "assignment.ada"
    await office.outbox.send([office.assign("a"), office.assign("b", bob)])
    (message,) = await said(queue)
    assert message.type == "assignment"
    await office.outbox.flush(timeout=0)


async def test_an_order_to_give_up_names_the_attempts_and_the_incarnation(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    lost = AttemptRef(run="run", id="a", attempt=2)
    await office.send(c.Abort(office.ada, "a-store", (lost,)))
    (message,) = await said(queue)
    assert isinstance(message, Cancel)
    assert (message.incarnation, message.store, message.attempts) == ("1", "a-store", (lost,))


async def test_a_recall_is_an_order_to_give_up_only_what_waits(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    waiting = AttemptRef(run="run", id="a", attempt=2)
    for command, waiting_only in ((c.Recall, True), (c.Abort, False)):
        await office.send(command(office.ada, "a-store", (waiting,)))
        (message,) = await said(queue)
        assert isinstance(message, Cancel)
        assert (message.attempts, message.waiting_only) == ((waiting,), waiting_only)


async def test_orders_to_many_are_cut_to_fit(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    lost = tuple(AttemptRef(run="r" * 60, id=f"{n:0>120}", attempt=1) for n in range(9000))
    incarnations = [f"{n:0>64}" for n in range(30_000)]
    await office.send(c.Abort(office.ada, "a-store", lost))
    await office.outbox.stop_all(incarnations, "done")
    cancelled: list[AttemptRef] = []
    stopped: list[str] = []
    while len(cancelled) < len(lost) or len(stopped) < len(incarnations):
        for message in await said(queue):  # which would not read what is too large
            if isinstance(message, Cancel):
                cancelled += message.attempts
            if isinstance(message, Stop):
                stopped += message.incarnations
    assert (tuple(cancelled), stopped) == (lost, incarnations)


async def test_the_queue_of_a_worker_that_connects_is_declared(office: Office) -> None:
    await office.send(c.SaveWorker(office.ada, WorkerEventKind.CONNECTED, "", 0.0))
    await office.wire.consume(topology.worker_queue("ada"), prefetch=1)
    (event,) = await said(office.events)
    assert isinstance(event, WorkerEvent)
    assert (event.worker, event.title, event.event) == ("ada", "Ada", WorkerEventKind.CONNECTED)


async def test_events_are_one_message_for_each_run_type_and_status(office: Office) -> None:
    tasks = [task(str(n), type="Big ocr" if n % 2 else "task") for n in range(10)]
    await office.send(
        *(c.AddTask(("run", t.id), 1, "run", t, 0, TaskStatus.READY, 0.0) for t in tasks)
    )
    async with asyncio.timeout(5):
        deliveries = await office.events.batch()
    assert sorted(d.routing_key for d in deliveries) == [
        "task.run.big-ocr.ready",
        "task.run.task.ready",
    ]
    events = [decode(d.body) for d in deliveries]
    assert sum(len(e.events) for e in events if isinstance(e, TaskEvents)) == 10


_DONE = TaskResult(run="run", id="a", attempt=2, outcome=Outcome.SUCCEEDED, output=7)
_ADA = profile("Ada")
_END = c.EndAttempt(
    ("run", "a"), "ocr", 2, _ADA, Outcome.SUCCEEDED, TaskStatus.SUCCEEDED, None, _DONE, None, 0, 0, 9.0
)  # fmt: skip
MOVES: list[tuple[c.Command, dict[str, object]]] = [
    (
        c.SetStatus(("run", "a"), "ocr", TaskStatus.FAILED, "b failed", 1, 9.0),
        {"status": TaskStatus.FAILED, "attempt": 1, "reason": "b failed"},
    ),
    (
        c.Assign(("run", "a"), "ocr", 2, _ADA, 9.0),
        {"status": TaskStatus.ASSIGNED, "worker": "Ada"},
    ),
    (c.Start(("run", "a"), "ocr", 2, _ADA, 9.0), {"status": TaskStatus.RUNNING, "worker": "Ada"}),
    (_END, {"status": TaskStatus.SUCCEEDED, "worker": "Ada", "output": 7}),
    (
        _END._replace(outcome=Outcome.LOST, status=TaskStatus.READY, reason="lost", result=None),
        {"status": TaskStatus.READY, "worker": "Ada", "reason": "lost"},
    ),
    (
        c.Reopen(("run", "a"), "ocr", TaskStatus.BLOCKED, 2, 9.0),
        {"status": TaskStatus.BLOCKED, "reason": "sent again"},
    ),
]


@pytest.mark.parametrize(("command", "told"), MOVES)
async def test_every_move_of_a_task_is_told_with_what_belongs_to_it(
    office: Office, command: c.Command, told: dict[str, object]
) -> None:
    await office.store_tasks(task("a"))
    await office.send(command)
    (message,) = await said(office.events)
    assert isinstance(message, TaskEvents)
    assert (message.run, message.task_type) == ("run", "ocr")
    assert message.events == (
        TaskEvent.model_validate({"id": "a", "attempt": 2, "at": 9.0} | told),
    )


async def test_an_answer_tells_who_submitted(office: Office) -> None:
    given = submission(task("a"), run="Nightly 1")
    await office.send(c.Answer(given, 1, 2, None, 0.0), c.Answer(given, 0, 0, "because", 0.0))
    async with asyncio.timeout(5):
        deliveries = await office.events.batch()
    assert [d.routing_key for d in deliveries] == [
        "run.nightly-1.accepted",
        "run.nightly-1.refused",
    ]
    yes, no = (decode(d.body) for d in deliveries)
    assert isinstance(yes, RunEvent)
    assert isinstance(no, RunEvent)
    assert (yes.submission_id, yes.accepted, yes.known) == ("s", 1, 2)
    assert no.reason == "because"


async def test_the_end_of_a_run_tells_how_its_tasks_have_ended(office: Office) -> None:
    await office.store_tasks(task("a"), task("b"))
    await office.send(c.CompleteRun("run", 0.0))
    (event,) = await said(office.events)
    assert isinstance(event, RunEvent)
    assert event.counts == {TaskStatus.READY: 2}


async def test_events_that_nobody_hears_or_that_are_not_confirmed_end_nothing(
    office: Office,
) -> None:
    await office.events.close()
    await office.send(c.SaveWorker(office.ada, WorkerEventKind.LOST, "", 0.0))
    office.wire.fails = lambda _: True
    await office.send(c.SaveWorker(office.ada, WorkerEventKind.LOST, "", 0.0))
    await office.outbox.stop_all((), "done")
    assert not office.outbox._pending


async def test_at_the_end_it_waits_so_long_and_no_longer(office: Office) -> None:
    await office.store_tasks(task("a"))
    office.wire.fails = lambda _: True
    await office.outbox.send([office.assign("a")])
    async with asyncio.timeout(2):
        await office.outbox.flush(timeout=0.05)
    assert not office.outbox._pending


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
async def test_what_is_no_number_is_null_in_assignments_and_events(
    office: Office, odd: float
) -> None:
    """JSON has no word for it: a strict reader would refuse the whole message."""
    queue = await office.give_queue(office.ada)
    await office.store_tasks(task("a", payload={"x": [odd]}))
    await office.send(office.assign("a"))
    (message,) = await said(queue)
    assert isinstance(message, Assignments)
    assert message.tasks[0].payload == {"x": [None]}
