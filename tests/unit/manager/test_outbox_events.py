"""The outbox publishes what has happened: each event once, in few messages."""

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
from tests.support.outbox_harness import OutboxHarness, receive
from tests.support.waiting import until_async


async def test_the_queue_of_a_connecting_worker_is_declared(harness: OutboxHarness) -> None:
    await harness.send(c.SaveWorker(harness.ada, WorkerEventKind.CONNECTED, "", 0.0))
    await harness.transport.consume(topology.worker_queue("ada"), prefetch=1)
    (event,) = await receive(harness.event_consumer)
    assert isinstance(event, WorkerEvent)
    assert (event.worker, event.title, event.event) == ("ada", "Ada", WorkerEventKind.CONNECTED)


async def test_task_events_are_one_message_per_run_type_and_status(harness: OutboxHarness) -> None:
    tasks = [task(str(n), type="Big ocr" if n % 2 else "task") for n in range(10)]
    await harness.send(
        *(c.AddTask(("run", t.id), 1, "run", t, 0, TaskStatus.READY, 0.0) for t in tasks)
    )
    async with asyncio.timeout(5):
        deliveries = await harness.event_consumer.batch()
    assert sorted(d.routing_key for d in deliveries) == [
        "task.run.big-ocr.ready",
        "task.run.task.ready",
    ]
    events = [decode(d.body) for d in deliveries]
    assert sum(len(e.events) for e in events if isinstance(e, TaskEvents)) == 10


async def test_a_new_task_that_is_assigned_at_once_has_no_ready_event(
    harness: OutboxHarness,
) -> None:
    await harness.store_tasks(task("a"), task("b"))
    added = [
        c.AddTask(("run", id), 1, "run", task(id), 0, TaskStatus.READY, 0.0) for id in ("a", "b")
    ]
    await harness.send(*added, harness.assign("a"))
    async with asyncio.timeout(5):
        deliveries = await harness.event_consumer.batch()
    published = [
        (event.id, event.status)
        for d in deliveries
        if isinstance(message := decode(d.body), TaskEvents)
        for event in message.events
    ]
    assert published == [("b", TaskStatus.READY), ("a", TaskStatus.ASSIGNED)]


_DONE = TaskResult(run="run", id="a", attempt=2, outcome=Outcome.SUCCEEDED, output=7)
_ADA = profile("Ada")
_END = c.EndAttempt(
    ("run", "a"), "ocr", 2, _ADA, Outcome.SUCCEEDED, TaskStatus.SUCCEEDED, None, _DONE, None, 0, 0, 9.0
)  # fmt: skip
_ENDED = replace(_END, task_type="task", attempt=1)
CHANGES: list[tuple[c.Command, dict[str, object]]] = [
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


@pytest.mark.parametrize(("command", "published"), CHANGES)
async def test_every_change_of_status_has_an_event_with_its_fields(
    harness: OutboxHarness, command: c.Command, published: dict[str, object]
) -> None:
    await harness.store_tasks(task("a"))
    await harness.send(command)
    (message,) = await receive(harness.event_consumer)
    assert isinstance(message, TaskEvents)
    assert (message.run, message.task_type) == ("run", "ocr")
    assert message.events == (
        TaskEvent.model_validate({"id": "a", "attempt": 2, "at": 9.0} | published),
    )


async def test_the_last_event_of_a_task_returned_and_cancelled_in_one_round_is_cancelled(
    harness: OutboxHarness,
) -> None:
    """Clients keep the last event of each task."""
    added = add(1)
    back = end(added, Outcome.RETURNED, TaskStatus.READY)
    cancelled = c.SetStatus(added.key, "task", TaskStatus.CANCELLED, "called off", 1, 301.0)
    await harness.send(back, cancelled)
    published = [event.status for m in await receive(harness.event_consumer) for event in m.events]  # type: ignore[union-attr]
    assert published == [TaskStatus.READY, TaskStatus.CANCELLED]


async def test_the_last_event_of_a_task_started_and_returned_in_one_round_is_ready(
    harness: OutboxHarness,
) -> None:
    x, y = add(1), add(2)
    await harness.send(start(x), end(x, Outcome.RETURNED, TaskStatus.READY), y)
    published = [event for m in await receive(harness.event_consumer) for event in m.events]  # type: ignore[union-attr]
    assert [event.status for event in published if event.id == "1"] == ["running", "ready"]
    await harness.send(y)
    assert await receive(harness.event_consumer)


async def test_an_event_that_cannot_be_published_does_not_delay_later_events(
    harness: OutboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = harness.transport.publish_unconfirmed
    failures = [ValueError("a name too long for a key")]

    async def publish_or_fail(exchange: str, key: str, message: Outgoing) -> None:
        if failures:
            raise failures.pop()
        await publish(exchange, key, message)

    monkeypatch.setattr(harness.transport, "publish_unconfirmed", publish_or_fail)
    lost = c.SaveWorker(harness.ada, WorkerEventKind.LOST, "", 0.0)
    await harness.send_decisions(c.Decisions([lost, lost]))
    await until_async(lambda: not harness.outbox._pending, "the outbox should be empty")
    (event,) = await receive(harness.event_consumer)
    assert isinstance(event, WorkerEvent)


async def test_a_run_event_answers_each_submission(harness: OutboxHarness) -> None:
    given = submission(task("a"), run="Nightly 1")
    await harness.send(
        c.AnswerSubmission(given, 1, 2, None, 0.0), c.AnswerSubmission(given, 0, 0, "because", 0.0)
    )
    async with asyncio.timeout(5):
        deliveries = await harness.event_consumer.batch()
    assert [d.routing_key for d in deliveries] == [
        "run.nightly-1.accepted",
        "run.nightly-1.refused",
    ]
    accepted, refused = (decode(d.body) for d in deliveries)
    assert isinstance(accepted, RunEvent)
    assert isinstance(refused, RunEvent)
    assert (accepted.submission_id, accepted.accepted, accepted.known) == ("s", 1, 2)
    assert refused.reason == "because"


async def test_the_event_of_a_completed_run_counts_its_tasks_by_status(
    harness: OutboxHarness,
) -> None:
    await harness.store_tasks(task("a"), task("b"))
    await harness.store.commit([harness.assign("a"), _ENDED])
    await harness.store.commit([c.SetStatus(("run", "b"), "task", TaskStatus.FAILED, "", 0, 9.0)])
    await harness.send(c.CompleteRun("run", 0.0))
    (event,) = await receive(harness.event_consumer)
    assert isinstance(event, RunEvent)
    assert event.counts == {TaskStatus.SUCCEEDED: 1, TaskStatus.FAILED: 1}


async def test_the_next_round_waits_until_the_tasks_of_a_completed_run_are_counted(
    harness: OutboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.store_tasks(task("a"))
    reached, may_continue, run = asyncio.Event(), asyncio.Event(), harness.store.run

    async def slow(name: str) -> RunRow | None:
        reached.set()
        await may_continue.wait()
        return await run(name)

    monkeypatch.setattr(harness.store, "run", slow)
    sending = asyncio.create_task(harness.send_decisions(c.Decisions([c.CompleteRun("run", 0.0)])))
    await reached.wait()
    assert not sending.done()
    may_continue.set()
    await sending


async def test_events_are_published_before_the_tasks_of_a_completed_run_are_counted(
    harness: OutboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.store_tasks(task("a"))
    published, published_before, publish = [], [], harness.transport.publish_unconfirmed

    async def record(exchange: str, key: str, message: Outgoing) -> None:
        published.append(key)
        await publish(exchange, key, message)

    async def run(name: str) -> RunRow | None:
        published_before.extend(published)
        return None

    monkeypatch.setattr(harness.transport, "publish_unconfirmed", record)
    monkeypatch.setattr(harness.store, "run", run)
    answer = c.AnswerSubmission(submission(task("a")), 1, 0, None, 0.0)
    await harness.send(answer, _ENDED, c.CompleteRun("run", 0.0))
    assert published_before == ["task.run.task.succeeded", "run.default.accepted"]
    assert published == [*published_before, "run.run.completed"]


async def test_events_without_subscriber_or_confirm_do_no_harm(
    harness: OutboxHarness,
) -> None:
    await harness.event_consumer.close()
    await harness.send(c.SaveWorker(harness.ada, WorkerEventKind.LOST, "", 0.0))
    harness.transport.should_fail = lambda _: True
    await harness.send(c.SaveWorker(harness.ada, WorkerEventKind.LOST, "", 0.0))
    await harness.outbox.stop_workers((), "done")
    assert not harness.outbox._pending
