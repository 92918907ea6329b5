"""Status queries: a client that receives no events asks what became of its submission."""

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
from tests.support.event_listener import listen
from tests.support.factories import task
from tests.support.fake_executor import FakeExecutor
from tests.support.fault_injecting_transport import FaultInjectingTransport
from tests.support.manager_harness import ManagerHarness, simple_tasks
from tests.support.waiting import until_async

SUCCEEDED = TaskStatus.SUCCEEDED


@pytest.mark.usefixtures("frequent_status_queries")
async def test_a_client_queries_the_status_of_a_long_run_and_does_not_submit_again() -> None:
    async with ManagerHarness() as harness, listen(harness, topology.SUBMISSIONS) as listener:
        executor = FakeExecutor(hold=True)
        await harness.connect_worker("Ada", 5, executor)
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        await until_async(
            lambda: len(listener.received(StatusQuery)) >= 3, "three status queries should arrive"
        )
        executor.end_all()
        assert (await running).has_succeeded
        assert len(listener.received(Submission)) == 1
        assert (
            max(len(Outgoing.from_message(query).body) for query in listener.received(StatusQuery))
            < 250
        )


@pytest.mark.usefixtures("frequent_status_queries")
async def test_a_status_query_delivers_a_receipt_and_results_whose_events_were_lost() -> None:
    """The manager cannot publish events, as if the client had missed them while it reconnected."""
    transport = FaultInjectingTransport(broker := MemoryBroker())
    transport.should_fail = lambda key: key.startswith(("run.", "task."))
    async with ManagerHarness(broker=broker, manager_transport=transport) as harness:
        await harness.connect_worker("Ada")
        async with listen(harness, topology.SUBMISSIONS) as listener:
            result = await harness.complete(*simple_tasks(3))
        assert statuses(result) == {str(n): (SUCCEEDED, "Ada") for n in range(3)}
        assert len(listener.received(Submission)) == 1
        assert transport.failed_keys


def statuses(result: RunResult) -> dict[str, tuple[TaskStatus, str | None]]:
    return {id: (event.status, event.worker) for id, event in result.tasks.items()}


async def test_a_resubmitted_ended_run_is_answered_with_all_results_and_not_announced_again() -> (
    None
):
    async with ManagerHarness() as harness:
        await harness.connect_worker("Ada")
        first = await harness.complete(*simple_tasks(3))
        events: list[TaskEvent] = []
        client = await harness.client()
        async with asyncio.timeout(5):
            again = await client.complete("default", simple_tasks(3), events.append)
        assert (again.counts, statuses(again)) == (first.counts, statuses(first))
        assert {e.id: e.output for e in events} == {id: e.output for id, e in first.tasks.items()}
        assert harness.completed_runs == ["default"]
        assert await client.submit("default", simple_tasks(3)) == Receipt(0, 3)


async def test_a_status_reply_has_only_the_tasks_that_the_client_submitted() -> None:
    async with ManagerHarness() as harness:
        await harness.connect_worker("Ada")
        await harness.complete(*simple_tasks(5))
        async with listen(harness, topology.EVENTS) as listener:
            result = await harness.complete(*simple_tasks(2))
            await until_async(listener.status_replies, "a status reply should arrive")
        assert list(result.tasks) == ["0", "1"]
        assert not listener.received(TaskEvents)


async def test_outputs_that_do_not_fit_into_one_status_reply_come_in_several() -> None:
    async with ManagerHarness() as harness:
        await harness.connect_worker("Ada", 5, LargeOutputExecutor())
        first = await harness.complete(*simple_tasks(12))
        async with listen(harness, topology.EVENTS) as listener:
            again = await harness.complete(*simple_tasks(12))
            await until_async(
                lambda: listener.status_replies() and not listener.status_replies()[-1].more,
                "the last status reply should arrive",
            )
        assert outputs(again) == outputs(first)
        assert [reply.more for reply in listener.status_replies()] == [True, True, True, False]


def outputs(result: RunResult) -> dict[str, object]:
    return {id: event.output for id, event in result.tasks.items()}


class LargeOutputExecutor:
    """An executor with large outputs."""

    types = None

    def start(self, job: Job) -> CancelJob:
        return run_in_task(self._work(), job)

    async def _work(self) -> str:
        return "x" * 200_000


@pytest.mark.usefixtures("frequent_status_queries")
async def test_the_next_manager_of_a_store_knows_the_submissions_of_the_last() -> None:
    async with ManagerHarness() as first, listen(first, topology.SUBMISSIONS) as listener:
        executor = FakeExecutor(hold=True)
        worker = await first.connect_worker("Ada", 5, executor)
        running = asyncio.create_task(first.complete(*simple_tasks(2)))
        await until_async(lambda: executor.started_ids, "an attempt should start")
        first.manager.stop()
        await first.running
        async with ManagerHarness(broker=first.broker, store=first.store) as second:
            await until_async(
                lambda: second.worker_entry(worker.profile) is not None,
                "the worker should connect to the second manager",
            )
            earlier = len(listener.received(StatusQuery))
            await until_async(
                lambda: len(listener.received(StatusQuery)) > earlier + 1,
                "two more status queries should arrive",
            )
            executor.end_all()
            assert (await running).counts == {SUCCEEDED: 2}
        assert len(listener.received(Submission)) == 1


async def test_a_status_query_for_an_unknown_submission_is_answered_with_unknown() -> None:
    async with ManagerHarness() as harness, listen(harness, topology.EVENTS) as listener:
        for number, store in enumerate(("", "another", harness.store.id)):
            query = StatusQuery(submission_id="s", number=number, run="nowhere", store=store)
            await harness.publish(topology.SUBMISSIONS, "submit.x", query)
        await until_async(
            lambda: len(listener.status_replies()) == 3, "three status replies should arrive"
        )
        replies = listener.status_replies()
        assert {(a.submission_id, a.status) for a in replies} == {("s", RunStatus.UNKNOWN)}
        assert [a.number for a in replies] == [0, 1, 2]


async def test_a_status_query_repeats_a_refusal() -> None:
    async with ManagerHarness() as harness, listen(harness, topology.EVENTS) as listener:
        submission = follow_submission("default", [task("a", depends_on=("gone",))])
        await harness.publish_submission(submission.messages)
        await harness.publish_submission([submission.next_query()])
        await until_async(listener.status_replies, "a status reply should arrive")
        (reply,) = listener.status_replies()
        assert reply.status is RunStatus.REFUSED
        assert "depends on gone" in str(reply.reason)


async def test_a_status_query_during_a_store_failure_is_dropped_and_the_next_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ManagerHarness() as harness, listen(harness, topology.EVENTS) as listener:
        submission = follow_submission("default", simple_tasks(1))
        await harness.publish_submission(submission.messages)
        await until_async(
            lambda: listener.run_events(RunStatus.ACCEPTED), "the submission should be accepted"
        )
        with monkeypatch.context() as patch:

            async def fail(run: str) -> None:
                failed.append(run)
                raise TransportError("the test says no")

            failed: list[str] = []
            patch.setattr(harness.store, "run", fail)
            await harness.publish_submission([submission.next_query()])
            await until_async(lambda: failed, "the store should fail")
        await harness.publish_submission([submission.next_query()])
        await until_async(listener.status_replies, "a status reply should arrive")
        (reply,) = listener.status_replies()
        assert (reply.number, reply.status) == (2, RunStatus.ACCEPTED)


async def test_the_leadership_is_renewed_before_a_large_round_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The manager renews nothing while it decides; another manager could take the lead meanwhile."""
    monkeypatch.setattr("skillq_manager.inbound.triage._LARGE_ROUND_TASKS", 5)
    monkeypatch.setattr(timings, "RENEW_SECONDS", 60.0)
    async with ManagerHarness() as harness:
        order: list[str] = []

        async def acquire() -> bool:
            order.append("renewed")
            return True

        handle = harness.manager.state.handle

        def decide(events: Iterable[Event], now: float) -> list[Command]:
            given = list(events)
            order.extend("decided" for event in given if isinstance(event, SubmissionReceived))
            return handle(given, now)

        monkeypatch.setattr(harness.store, "acquire", acquire)
        monkeypatch.setattr(harness.manager.state, "handle", decide)
        client = await harness.client()
        await client.submit("few", simple_tasks(3))
        await client.submit("many", simple_tasks(6))
        assert order == ["decided", "renewed", "decided"]
