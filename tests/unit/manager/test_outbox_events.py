"""What has happened is told to whoever listens, once, in few messages."""

import asyncio
from dataclasses import replace

import pytest

from skillq import topology
from skillq.messages import (
    Outcome,
    RunEvent,
    TaskEvent,
    TaskEvents,
    TaskResult,
    TaskStatus,
    WorkerEvent,
    WorkerEventKind,
    decode,
)
from skillq.transport import Outgoing
from skillq_manager.core import commands as c
from skillq_manager.store.base import RunRow
from tests.support.commands import add, end, start
from tests.support.factories import profile, submission, task
from tests.unit.manager.office import Office, said
from tests.unit.worker.boss import until


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


async def test_a_new_task_that_is_given_out_at_once_is_not_told_of_as_ready(
    office: Office,
) -> None:
    await office.store_tasks(task("a"), task("b"))
    added = [
        c.AddTask(("run", id), 1, "run", task(id), 0, TaskStatus.READY, 0.0) for id in ("a", "b")
    ]
    await office.send(*added, office.assign("a"))
    async with asyncio.timeout(5):
        deliveries = await office.events.batch()
    told = [
        (event.id, event.status)
        for d in deliveries
        if isinstance(message := decode(d.body), TaskEvents)
        for event in message.events
    ]
    assert told == [("b", TaskStatus.READY), ("a", TaskStatus.ASSIGNED)]


_DONE = TaskResult(run="run", id="a", attempt=2, outcome=Outcome.SUCCEEDED, output=7)
_ADA = profile("Ada")
_END = c.EndAttempt(
    ("run", "a"), "ocr", 2, _ADA, Outcome.SUCCEEDED, TaskStatus.SUCCEEDED, None, _DONE, None, 0, 0, 9.0
)  # fmt: skip
_ENDED = replace(_END, task_type="task", attempt=1)
MOVES: list[tuple[c.Command, dict[str, object]]] = [
    (
        c.SetStatus(("run", "a"), "ocr", TaskStatus.FAILED, "b failed", 1, 9.0),
        {"status": TaskStatus.FAILED, "attempt": 1, "reason": "b failed"},
    ),
    (
        c.Assign(("run", "a"), "ocr", 2, _ADA, 9.0),
        {"status": TaskStatus.ASSIGNED, "worker": "Ada"},
    ),
    (
        c.StartAttempt(("run", "a"), "ocr", 2, _ADA, 9.0),
        {"status": TaskStatus.RUNNING, "worker": "Ada"},
    ),
    (_END, {"status": TaskStatus.SUCCEEDED, "worker": "Ada", "output": 7}),
    (
        replace(_END, outcome=Outcome.LOST, status=TaskStatus.READY, reason="lost", result=None),
        {"status": TaskStatus.READY, "worker": "Ada", "reason": "lost"},
    ),
    (
        c.Reopen(("run", "a"), "ocr", TaskStatus.BLOCKED, 2, 9.0),
        {"status": TaskStatus.BLOCKED, "reason": "retried"},
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


async def test_what_is_called_off_in_the_turn_in_which_it_came_back_is_told_last_as_cancelled(
    office: Office,
) -> None:
    """Clients keep the last event of each task."""
    added = add(1)
    back = end(added, Outcome.RETURNED, TaskStatus.READY)
    cancelled = c.SetStatus(added.key, "task", TaskStatus.CANCELLED, "called off", 1, 301.0)
    await office.send(back, cancelled)
    told = [event.status for m in await said(office.events) for event in m.events]  # type: ignore[union-attr]
    assert told == [TaskStatus.READY, TaskStatus.CANCELLED]


async def test_what_came_back_in_the_turn_in_which_it_began_is_told_last_as_ready(
    office: Office,
) -> None:
    x, y = add(1), add(2)
    await office.send(start(x), end(x, Outcome.RETURNED, TaskStatus.READY), y)
    told = [event for m in await said(office.events) for event in m.events]  # type: ignore[union-attr]
    assert [event.status for event in told if event.id == "1"] == ["running", "ready"]
    await office.send(y)
    assert await said(office.events), "and so on"


async def test_one_event_that_cannot_be_told_holds_up_none_after_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling = office.wire.publish_unconfirmed
    failures = [ValueError("a name too long for a key")]

    async def tell(exchange: str, key: str, message: Outgoing) -> None:
        if failures:
            raise failures.pop()
        await telling(exchange, key, message)

    monkeypatch.setattr(office.wire, "publish_unconfirmed", tell)
    lost = c.SaveWorker(office.ada, WorkerEventKind.LOST, "", 0.0)
    await office.hand_over(c.Decisions([lost, lost]))
    await until(lambda: not office.outbox._pending)
    (event,) = await said(office.events)
    assert isinstance(event, WorkerEvent)


async def test_an_answer_tells_who_submitted(office: Office) -> None:
    given = submission(task("a"), run="Nightly 1")
    await office.send(
        c.AnswerSubmission(given, 1, 2, None, 0.0), c.AnswerSubmission(given, 0, 0, "because", 0.0)
    )
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
    await office.store.commit([office.assign("a"), _ENDED])
    await office.store.commit([c.SetStatus(("run", "b"), "task", TaskStatus.FAILED, "", 0, 9.0)])
    await office.send(c.CompleteRun("run", 0.0))
    (event,) = await said(office.events)
    assert isinstance(event, RunEvent)
    assert event.counts == {TaskStatus.SUCCEEDED: 1, TaskStatus.FAILED: 1}


async def test_nothing_else_is_decided_before_the_tasks_of_a_run_at_its_end_are_counted(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.store_tasks(task("a"))
    asked, may_go_on, run = asyncio.Event(), asyncio.Event(), office.store.run

    async def slow(name: str) -> RunRow | None:
        asked.set()
        await may_go_on.wait()
        return await run(name)

    monkeypatch.setattr(office.store, "run", slow)
    sending = asyncio.create_task(office.hand_over(c.Decisions([c.CompleteRun("run", 0.0)])))
    await asked.wait()
    assert not sending.done()
    may_go_on.set()
    await sending


async def test_all_that_is_told_has_left_before_the_tasks_of_a_run_at_its_end_are_counted(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.store_tasks(task("a"))
    told, left_by_then, tell = [], [], office.wire.publish_unconfirmed

    async def heard(exchange: str, key: str, message: Outgoing) -> None:
        told.append(key)
        await tell(exchange, key, message)

    async def run(name: str) -> RunRow | None:
        left_by_then.extend(told)
        return None

    monkeypatch.setattr(office.wire, "publish_unconfirmed", heard)
    monkeypatch.setattr(office.store, "run", run)
    answer = c.AnswerSubmission(submission(task("a")), 1, 0, None, 0.0)
    await office.send(answer, _ENDED, c.CompleteRun("run", 0.0))
    assert left_by_then == ["task.run.task.succeeded", "run.default.accepted"]
    assert told == [*left_by_then, "run.run.completed"]


async def test_events_that_nobody_hears_or_that_are_not_confirmed_end_nothing(
    office: Office,
) -> None:
    await office.events.close()
    await office.send(c.SaveWorker(office.ada, WorkerEventKind.LOST, "", 0.0))
    office.wire.fails = lambda _: True
    await office.send(c.SaveWorker(office.ada, WorkerEventKind.LOST, "", 0.0))
    await office.outbox.stop_workers((), "done")
    assert not office.outbox._pending
