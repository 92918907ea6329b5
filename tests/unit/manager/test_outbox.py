"""Commands become few messages, each cut to fit, and none holds up the loop."""

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
from tests.unit.manager.office import Office, said
from tests.unit.worker.boss import until


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
    assert isinstance(event, e.AssignmentUndeliverable)
    assert event.attempt.id == "sum"
    assert str(MAX_MESSAGE_BYTES) in event.reason
    (message,) = await said(queue)
    assert isinstance(message, Assignments)
    assert [t.id for t in message.tasks] == ["x"]


async def test_an_assignment_that_comes_back_is_told_and_the_queue_declared(office: Office) -> None:
    await office.store_tasks(task("a"))
    await office.send(office.assign("a"))
    (event,) = office.fed
    assert isinstance(event, e.AssignmentReturned)
    assert (event.worker, event.incarnation) == ("ada", "1")
    assert [ref.id for ref in event.attempts] == ["a"]
    await office.wire.consume(topology.worker_queue("ada"), prefetch=1)


async def test_an_assignment_that_is_not_confirmed_is_sent_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "ASSIGNMENT_RETRY_SECONDS", 0.01)
    queue = await office.give_queue(office.ada)
    await office.store_tasks(task("a"))
    office.wire.fails = lambda key: key == "assignment.ada" and len(office.wire.failed) < 3
    await office.send(office.assign("a"))
    assert len(await said(queue)) == 1
    assert len(office.wire.failed) == 3


async def test_an_assignment_that_is_wanted_no_more_is_not_sent_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "ASSIGNMENT_RETRY_SECONDS", 0.01)
    await office.store_tasks(task("a"))
    office.wire.fails = lambda _: True
    await office.hand_over(c.Decisions([office.assign("a")]))
    await until(lambda: office.wire.failed.count("assignment.ada") >= 2)
    office.current = False
    await office.outbox.flush(timeout=5)
    assert not office.outbox._pending


async def test_assignments_wait_while_another_manager_may_give_the_same_ones_out(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "ASSIGNMENT_RETRY_SECONDS", 0.01)
    queue = await office.give_queue(office.ada)
    await office.store_tasks(task("a"))
    office.alone = False
    await office.hand_over(c.Decisions([office.assign("a")]))
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
    await office.hand_over(c.Decisions([office.assign("a"), office.assign("b", bob)]))
    (message,) = await said(queue)
    assert message.type == "assignment"
    await office.outbox.flush(timeout=0)


async def test_an_order_to_give_up_names_the_attempts_and_the_incarnation(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    lost = AttemptRef(run="run", id="a", attempt=2)
    await office.send(c.CancelAttempts(office.ada, "a-store", (lost,)))
    (message,) = await said(queue)
    assert isinstance(message, Cancel)
    assert (message.incarnation, message.store, message.attempts) == ("1", "a-store", (lost,))


async def test_a_recall_is_an_order_to_give_up_only_what_waits(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    waiting = AttemptRef(run="run", id="a", attempt=2)
    for command, waiting_only in ((c.RecallAttempts, True), (c.CancelAttempts, False)):
        await office.send(command(office.ada, "a-store", (waiting,)))
        (message,) = await said(queue)
        assert isinstance(message, Cancel)
        assert (message.attempts, message.waiting_only) == ((waiting,), waiting_only)


async def test_orders_to_many_are_cut_to_fit(office: Office) -> None:
    queue = await office.give_queue(office.ada)
    lost = tuple(AttemptRef(run="r" * 60, id=f"{n:0>120}", attempt=1) for n in range(9000))
    incarnations = [f"{n:0>64}" for n in range(30_000)]
    await office.send(c.CancelAttempts(office.ada, "a-store", lost))
    await office.outbox.stop_workers(incarnations, "done")
    cancelled: list[AttemptRef] = []
    stopped: list[str] = []
    while len(cancelled) < len(lost) or len(stopped) < len(incarnations):
        for message in await said(queue):  # which would not read what is too large
            if isinstance(message, Cancel):
                cancelled += message.attempts
            if isinstance(message, Stop):
                stopped += message.incarnations
    assert (tuple(cancelled), stopped) == (lost, incarnations)


async def test_at_the_end_it_waits_so_long_and_no_longer(office: Office) -> None:
    await office.store_tasks(task("a"))
    office.wire.fails = lambda _: True
    await office.hand_over(c.Decisions([office.assign("a")]))
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
