"""The outbox turns commands into few messages that fit, and never delays the manager."""

import asyncio

import pytest

from skillq import timings, topology
from skillq.messages import (
    MAX_MESSAGE_BYTES,
    Assignments,
    AttemptRef,
    Cancel,
    Stop,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from tests.support.factories import profile, task
from tests.support.outbox_harness import OutboxHarness, receive
from tests.support.waiting import until_async


async def test_all_assignments_of_a_round_to_one_worker_are_one_message(
    harness: OutboxHarness,
) -> None:
    queue = await harness.declare_queue(harness.ada)
    await harness.store_tasks(*(task(str(n)) for n in range(50)))
    await harness.send(*(harness.assign(str(n)) for n in range(50)))
    (message,) = await receive(queue)
    assert isinstance(message, Assignments)
    assert [t.id for t in message.tasks] == [str(n) for n in range(50)]
    assert (message.worker, message.incarnation, message.store) == ("ada", "1", harness.store.id)


async def test_two_incarnations_of_a_worker_get_separate_messages_within_a_round(
    harness: OutboxHarness,
) -> None:
    queue = await harness.declare_queue(harness.ada)
    await harness.store_tasks(task("a"), task("b"))
    restarted = profile("Ada", incarnation="2")
    await harness.send(c.Resend(("run", "a"), 1, harness.ada), harness.assign("b", restarted))
    messages = await receive(queue)
    assert {(m.incarnation, m.tasks[0].id) for m in messages if isinstance(m, Assignments)} == {
        ("1", "a"),
        ("2", "b"),
    }


async def test_an_assignment_has_all_fields_that_the_worker_needs(harness: OutboxHarness) -> None:
    queue = await harness.declare_queue(harness.ada)
    given = task("b", 4, type="ocr", payload={"x": 1}, timeout=3, priority=7, requires=["gpu"],
                 description="Read", depends_on=["a"])  # fmt: skip
    await harness.store_tasks(task("a"), given)
    harness.store._tasks["run", "a"].output = {"pages": 2}
    await harness.send(harness.assign("b"))
    (message,) = await receive(queue)
    assert isinstance(message, Assignments)
    (sent,) = message.tasks
    assert (sent.task_type, sent.difficulty, sent.payload, sent.timeout) == ("ocr", 4, {"x": 1}, 3)
    assert (sent.priority, sent.requires, sent.description) == (7, ("gpu",), "Read")
    assert sent.dependencies == {"a": {"pages": 2}}


async def test_large_assignments_are_split_into_messages_that_fit(harness: OutboxHarness) -> None:
    queue = await harness.declare_queue(harness.ada)
    large = {"x": "y" * 250_000}
    await harness.store_tasks(*(task(str(n), payload=large) for n in range(9)))
    await harness.send(*(harness.assign(str(n)) for n in range(9)))
    messages = await receive(queue)
    assert 3 <= len(messages) <= 9
    ids = [t.id for m in messages if isinstance(m, Assignments) for t in m.tasks]
    assert sorted(ids) == [str(n) for n in range(9)]


async def test_an_assignment_too_large_for_a_message_is_reported_as_undeliverable(
    harness: OutboxHarness,
) -> None:
    parts = [str(n) for n in range(6)]
    await harness.store_tasks(*(task(id) for id in parts), task("sum", depends_on=parts), task("x"))
    for id in parts:
        harness.store._tasks["run", id].output = "y" * 250_000
    queue = await harness.declare_queue(harness.ada)
    await harness.send(harness.assign("sum"), harness.assign("x"))
    (event,) = harness.core_events
    assert isinstance(event, e.AssignmentUndeliverable)
    assert event.attempt.id == "sum"
    assert str(MAX_MESSAGE_BYTES) in event.reason
    (message,) = await receive(queue)
    assert isinstance(message, Assignments)
    assert [t.id for t in message.tasks] == ["x"]


async def test_an_unroutable_assignment_is_returned_and_the_queue_declared(
    harness: OutboxHarness,
) -> None:
    await harness.store_tasks(task("a"))
    await harness.send(harness.assign("a"))
    (event,) = harness.core_events
    assert isinstance(event, e.AssignmentReturned)
    assert (event.worker, event.incarnation) == ("ada", "1")
    assert [ref.id for ref in event.attempts] == ["a"]
    await harness.transport.consume(topology.worker_queue("ada"), prefetch=1)


async def test_an_assignment_that_is_not_confirmed_is_resent(
    harness: OutboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "ASSIGNMENT_RETRY_SECONDS", 0.01)
    queue = await harness.declare_queue(harness.ada)
    await harness.store_tasks(task("a"))
    harness.transport.should_fail = lambda key: (
        key == "assignment.ada" and len(harness.transport.failed_keys) < 3
    )
    await harness.send(harness.assign("a"))
    assert len(await receive(queue)) == 1
    assert len(harness.transport.failed_keys) == 3


async def test_an_assignment_that_is_no_longer_current_is_not_resent(
    harness: OutboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "ASSIGNMENT_RETRY_SECONDS", 0.01)
    await harness.store_tasks(task("a"))
    harness.transport.should_fail = lambda _: True
    await harness.send_decisions(c.Decisions([harness.assign("a")]))
    await until_async(
        lambda: harness.transport.failed_keys.count("assignment.ada") >= 2,
        "the assignment should fail twice",
    )
    harness.is_current = False
    await harness.outbox.flush(timeout=5)
    assert not harness.outbox._pending


async def test_assignments_wait_while_another_manager_may_send_the_same(
    harness: OutboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "ASSIGNMENT_RETRY_SECONDS", 0.01)
    queue = await harness.declare_queue(harness.ada)
    await harness.store_tasks(task("a"))
    harness.may_assign = False
    await harness.send_decisions(c.Decisions([harness.assign("a")]))
    waiting = asyncio.create_task(receive(queue))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    harness.may_assign = True
    (message,) = await waiting
    assert message.type == "assignment"


async def test_an_unreachable_worker_does_not_delay_another(harness: OutboxHarness) -> None:
    bob = profile("Bob")
    queue = await harness.declare_queue(bob)
    await harness.store_tasks(task("a"), task("b"))
    harness.transport.should_fail = lambda key: key == "assignment.ada"
    await harness.send_decisions(c.Decisions([harness.assign("a"), harness.assign("b", bob)]))
    (message,) = await receive(queue)
    assert message.type == "assignment"
    await harness.outbox.flush(timeout=0)


async def test_a_cancel_message_names_the_attempts_the_incarnation_and_the_store(
    harness: OutboxHarness,
) -> None:
    queue = await harness.declare_queue(harness.ada)
    lost = AttemptRef(run="run", id="a", attempt=2)
    await harness.send(c.CancelAttempts(harness.ada, "a-store", (lost,)))
    (message,) = await receive(queue)
    assert isinstance(message, Cancel)
    assert (message.incarnation, message.store, message.attempts) == ("1", "a-store", (lost,))


async def test_a_recall_is_a_cancel_message_for_waiting_attempts_only(
    harness: OutboxHarness,
) -> None:
    queue = await harness.declare_queue(harness.ada)
    waiting = AttemptRef(run="run", id="a", attempt=2)
    for command, waiting_only in ((c.RecallAttempts, True), (c.CancelAttempts, False)):
        await harness.send(command(harness.ada, "a-store", (waiting,)))
        (message,) = await receive(queue)
        assert isinstance(message, Cancel)
        assert (message.attempts, message.waiting_only) == ((waiting,), waiting_only)


async def test_long_cancel_and_stop_messages_are_split_to_fit(harness: OutboxHarness) -> None:
    queue = await harness.declare_queue(harness.ada)
    lost = tuple(AttemptRef(run="r" * 60, id=f"{n:0>120}", attempt=1) for n in range(9000))
    incarnations = [f"{n:0>64}" for n in range(30_000)]
    await harness.send(c.CancelAttempts(harness.ada, "a-store", lost))
    await harness.outbox.stop_workers(incarnations, "done")
    cancelled: list[AttemptRef] = []
    stopped: list[str] = []
    while len(cancelled) < len(lost) or len(stopped) < len(incarnations):
        for message in await receive(queue):  # fails if a message is too large
            if isinstance(message, Cancel):
                cancelled += message.attempts
            if isinstance(message, Stop):
                stopped += message.incarnations
    assert (tuple(cancelled), stopped) == (lost, incarnations)


async def test_flush_waits_no_longer_than_its_timeout(harness: OutboxHarness) -> None:
    await harness.store_tasks(task("a"))
    harness.transport.should_fail = lambda _: True
    await harness.send_decisions(c.Decisions([harness.assign("a")]))
    async with asyncio.timeout(2):
        await harness.outbox.flush(timeout=0.05)
    assert not harness.outbox._pending


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
async def test_not_a_number_is_encoded_as_null_in_assignments(
    harness: OutboxHarness, number: float
) -> None:
    """JSON has no such numbers: a strict reader would refuse the whole message."""
    queue = await harness.declare_queue(harness.ada)
    await harness.store_tasks(task("a", payload={"x": [number]}))
    await harness.send(harness.assign("a"))
    (message,) = await receive(queue)
    assert isinstance(message, Assignments)
    assert message.tasks[0].payload == {"x": [None]}
