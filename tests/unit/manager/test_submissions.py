"""Submissions of real clients are accepted or refused as a whole, also when the manager changes."""

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
from tests.support.event_listener import listen
from tests.support.factories import task
from tests.support.fault_injecting_transport import FaultInjectingTransport
from tests.support.manager_harness import ManagerHarness, simple_tasks
from tests.support.waiting import until_async

SUCCEEDED = TaskStatus.SUCCEEDED


# --- multipart submissions --------------------------------------------------------------------


def dependent_tasks() -> list[Task]:
    """Return ten tasks; the first nine depend on the last."""
    return [
        task("0", depends_on=("9",)),
        *(task(str(n), depends_on=("9",)) for n in range(1, 9)),
        task("9"),
    ]


@pytest.mark.usefixtures("small_parts")
async def test_a_multipart_submission_is_answered_once_and_done() -> None:
    async with ManagerHarness() as harness, listen(harness, topology.EVENTS) as listener:
        await harness.connect_worker("Ada")
        assert (await harness.complete(*dependent_tasks())).counts == {SUCCEEDED: 10}
        (answer,) = listener.run_events(RunStatus.ACCEPTED)
        assert (answer.accepted, answer.known) == (10, 0)
        await until_async(
            lambda: harness.submissions_at_broker() == 0,
            "the manager should acknowledge all messages",
        )


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("invalid", "reason"),
    [
        (task("x", depends_on=("nowhere",)), "task x depends on nowhere"),
        (task("old", difficulty=9), "task old is already in run default with another definition"),
        (task("9", depends_on=("0",)), "depends on itself"),
    ],
)
async def test_one_invalid_task_refuses_all_parts_of_a_submission(
    invalid: Task, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq.client.submission.check_tasks", lambda _: None)
    async with ManagerHarness() as harness:
        await harness.connect_worker("Ada")
        await harness.complete(task("old"))
        valid = [t for t in dependent_tasks() if t.id != invalid.id]
        with pytest.raises(UsageError, match=reason):
            await harness.complete(*valid, invalid)
        assert await harness.stored_ids() == ["old"]
        await until_async(
            lambda: harness.submissions_at_broker() == 0,
            "the manager should acknowledge all messages",
        )


async def test_a_submission_with_one_task_in_two_parts_is_refused() -> None:
    wire_tasks = [task(id).to_wire() for id in "aba"]
    parts = [
        encode_submission("s", "default", "default", [wire_task], part=number, parts=3)
        for number, wire_task in enumerate(wire_tasks, 1)
    ]
    async with ManagerHarness() as harness, listen(harness, topology.EVENTS) as listener:
        await harness.publish_submission([Outgoing(part, "submission") for part in parts])
        await until_async(
            lambda: listener.run_events(RunStatus.REFUSED), "the submission should be refused"
        )
        (answer,) = listener.run_events(RunStatus.REFUSED)
        assert "task a: two tasks have this id" in str(answer.reason)
        assert await harness.stored_ids() == []


@pytest.mark.usefixtures("small_parts")
async def test_parts_may_arrive_in_any_order_and_more_than_once() -> None:
    async with ManagerHarness() as harness, listen(harness, topology.EVENTS) as listener:
        messages = follow_submission("default", dependent_tasks()).messages
        await harness.publish_submission([*reversed(messages[1:]), *messages[1:]])
        await until_async(
            lambda: harness.submissions_at_broker() == len(messages) - 1,
            "the broker should have all parts but the first",
        )
        assert await harness.stored_ids() == []
        await harness.publish_submission(messages[:1])
        await until_async(
            lambda: listener.run_events(RunStatus.ACCEPTED), "the submission should be accepted"
        )
        assert await harness.stored_ids() == [str(n) for n in range(10)]
        await harness.publish_submission(messages[:2])  # as if acknowledgements were lost
        await until_async(
            lambda: harness.submissions_at_broker() == 0,
            "the manager should acknowledge all messages",
        )
        assert len(listener.run_events(RunStatus.ACCEPTED)) == 1


@pytest.mark.usefixtures("small_parts")
async def test_the_next_manager_receives_the_parts_of_an_incomplete_submission() -> None:
    messages = follow_submission("default", dependent_tasks()).messages
    async with ManagerHarness() as first:
        await first.publish_submission(messages[:-1])
        await until_async(
            lambda: len(first.manager._multipart) == len(messages) - 1,
            "all parts but the last should arrive",
        )
        first.manager.stop()
        await first.running
        async with ManagerHarness(broker=first.broker) as second:
            await second.connect_worker("Ada")
            await second.publish_submission(messages[-1:])
            await until_async(lambda: second.completed_runs, "the run should complete")
            assert len(await second.stored_ids()) == 10
            assert second.submissions_at_broker() == 0


@pytest.mark.usefixtures("small_parts")
async def test_an_incomplete_submission_is_refused_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "PARTS_SILENCE_SECONDS", 0.1)
    async with ManagerHarness() as harness, listen(harness, topology.EVENTS) as listener:
        messages = follow_submission("default", dependent_tasks()).messages
        await harness.publish_submission(messages[1:-1])
        await until_async(
            lambda: listener.run_events(RunStatus.REFUSED), "the submission should be refused"
        )
        (answer,) = listener.run_events(RunStatus.REFUSED)
        assert str(answer.reason).startswith("2 of the 5 messages of this submission did not come")
        await harness.publish_submission(messages[-1:])
        await until_async(
            lambda: harness.submissions_at_broker() == 0,
            "the manager should acknowledge all messages",
        )
        assert await harness.stored_ids() == []


@pytest.mark.usefixtures("small_parts")
async def test_redelivered_parts_of_an_accepted_submission_are_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An earlier manager died when it had acknowledged some of the parts."""
    monkeypatch.setattr(timings, "PARTS_SILENCE_SECONDS", 0.05)
    async with ManagerHarness() as harness, listen(harness, topology.EVENTS) as listener:
        messages = follow_submission("default", dependent_tasks()).messages
        await harness.publish_submission(messages)
        await until_async(
            lambda: listener.run_events(RunStatus.ACCEPTED), "the submission should be accepted"
        )
        harness.manager._status_queries._answers.clear()
        await harness.publish_submission(messages[1:])
        await until_async(
            lambda: len(harness.manager._multipart) == len(messages) - 1,
            "all published parts should arrive",
        )
        await until_async(
            lambda: harness.submissions_at_broker() == 0,
            "the manager should acknowledge all messages",
        )
        assert not listener.run_events(RunStatus.REFUSED)


@pytest.mark.usefixtures("small_parts")
async def test_any_number_of_large_submissions_at_once_are_all_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parts are mixed and the buffer holds few, so that no submission would be complete without a removal."""
    monkeypatch.setattr(queues, "PREFETCH", 12)
    monkeypatch.setattr(parts_module, "MAX_HELD_PARTS", 8)
    monkeypatch.setattr(timings, "PARTS_REQUEUE_SECONDS", 0.01)
    transport = FaultInjectingTransport(broker := MemoryBroker())
    transport.should_fail = lambda key: key == "submit.x" and len(transport.failed_keys) < 3
    async with (
        ManagerHarness(broker=broker, manager_transport=transport) as harness,
        listen(harness, topology.EVENTS) as listener,
    ):
        submissions = [follow_submission(f"run {n}", simple_tasks(10)).messages for n in range(8)]
        await harness.publish_submission(
            [message for several in zip(*submissions, strict=True) for message in several]
        )
        await until_async(
            lambda: len(listener.run_events(RunStatus.ACCEPTED)) == len(submissions),
            "all submissions should be accepted",
        )
        assert {(e.accepted, e.known) for e in listener.run_events(RunStatus.ACCEPTED)} == {(10, 0)}
        await until_async(
            lambda: harness.submissions_at_broker() == 0,
            "the manager should acknowledge all messages",
        )
        assert len(transport.failed_keys) == 3


# --- a manager that leaves --------------------------------------------------------------------


@asynccontextmanager
async def leaving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ManagerHarness]:
    """Run a manager that has completed all runs and waits for a worker that does not leave."""
    monkeypatch.setattr(timings, "STOP_SECONDS", 0.5)
    async with (
        ManagerHarness(stop_when_done=True) as harness,
        listen(harness, topology.COMMANDS) as listener,
    ):
        await harness.connect_worker("Ada", 9)
        await harness.connect_fake_worker("Silent", 10, has_queue=False)
        await harness.complete(*simple_tasks(1), run="first")
        await until_async(lambda: listener.received(Stop), "the manager should stop its workers")
        yield harness


async def test_a_submission_while_the_manager_leaves_is_done_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with leaving(monkeypatch) as first:
        client = await first.client()
        assert await client.submit("second", simple_tasks(3), wait=0.1) is None
        assert not first.running.done()
        await first.running
        assert await first.stored_ids("second") == []
        async with ManagerHarness(broker=first.broker) as second:
            await second.connect_worker("Bob")
            await until_async(
                lambda: second.completed_runs == ["second"], "the second run should complete"
            )


@pytest.mark.usefixtures("frequent_status_queries")
async def test_a_client_waits_for_the_next_manager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with leaving(monkeypatch) as first, listen(first, topology.SUBMISSIONS) as listener:
        running = asyncio.create_task(first.complete(*simple_tasks(3), run="second"))
        await first.running
        async with ManagerHarness(broker=first.broker) as second:
            await second.connect_worker("Bob")
            assert (await running).counts == {SUCCEEDED: 3}
        assert len(listener.received(Submission)) == 1
        assert listener.received(StatusQuery)


async def test_a_submission_or_retry_to_a_leaving_manager_raises_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with leaving(monkeypatch) as harness:
        submission = Submission(submission_id="1", run="late", run_title="late", tasks=(task(),))
        with pytest.raises(Unreachable, match="ask again"):
            await harness.manager.submit(submission)
        with pytest.raises(Unreachable, match="ask again"):
            await harness.manager.retry([("first", "0")])
        await harness.running
        assert await harness.stored_ids("late") == []


async def test_a_manager_does_not_leave_while_a_submission_is_incomplete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillq.client.submission.TASKS_BYTES", 110)
    async with ManagerHarness(stop_when_done=True) as harness:
        await harness.connect_worker("Ada")
        messages = follow_submission("second", simple_tasks(10)).messages
        await harness.publish_submission(messages[:-1])
        await until_async(
            lambda: len(harness.manager._multipart) == len(messages) - 1,
            "all published parts should arrive",
        )
        await harness.complete(*simple_tasks(1), run="first")
        assert not harness.running.done()
        await harness.publish_submission(messages[-1:])
        await until_async(harness.running.done, "the manager should leave")
        assert harness.completed_runs == ["first", "second"]


# --- look-ups of runs in the store -------------------------------------------------------------


@asynccontextmanager
async def recorded_look_ups(
    patch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[ManagerHarness, list[str]]]:
    """Yield a harness without workers, and the list of runs that are looked up in its store."""
    async with ManagerHarness() as harness:
        looked_up: list[str] = []
        look_up = harness.store.run

        async def record(run: str) -> RunRow | None:
            looked_up.append(run)
            return await look_up(run)

        patch.setattr(harness.store, "run", record)
        yield harness, looked_up


def submission_to(run: str, id: str, title: str = "") -> Submission:
    return Submission(submission_id=uuid4().hex, run=run, run_title=title or run, tasks=(task(id),))


async def test_a_run_is_looked_up_once_for_all_submissions_of_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One look-up per submission would need one call of the store's thread after the other before the decision."""
    async with recorded_look_ups(monkeypatch) as (harness, looked_up):
        together = [submission_to(run, str(n)) for n in range(3) for run in ("one", "other")]
        await asyncio.gather(*map(harness.manager.submit, together))
        assert looked_up == ["one", "other"]


async def test_a_run_is_looked_up_until_it_is_stored_and_keeps_its_title(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with recorded_look_ups(monkeypatch) as (harness, looked_up):
        for n in range(5):
            assert (await harness.manager.submit(submission_to("one", str(n)))).accepted == 1
        assert looked_up == ["one"] * 2
        refused = await harness.manager.submit(submission_to("one", "9", title="One!"))
        assert "run 'One!' would be one on the wire" in (refused.reason or "")


async def test_the_number_of_cached_titles_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillq_manager.inbound.triage._MAX_TITLES", 1)
    async with recorded_look_ups(monkeypatch) as (harness, looked_up):
        for n, run in enumerate(("one", "one", "other", "other", "one")):
            await harness.manager.submit(submission_to(run, str(n)))
        assert looked_up == ["one", "one", "other", "other", "one"]
