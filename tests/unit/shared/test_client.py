"""The client submits tasks, follows a run to its end, and recovers from lost messages."""

import asyncio

import pytest

from skillq import topology
from skillq.client import Client, Receipt
from skillq.client.submission import follow_submission
from skillq.errors import Unreachable, UsageError
from skillq.messages import (
    MAX_TASKS,
    RunStatus,
    Submission,
    Task,
    TaskStatus,
    decode,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from tests.support.fake_manager_of_client import FakeManagerOfClient, task
from tests.support.virtual_time import loop_clock


async def test_submit_returns_how_many_tasks_are_new(
    manager: FakeManagerOfClient, client: Client
) -> None:
    running = asyncio.create_task(client.submit("Nightly 1", [task("a"), task("b")]))
    submission = await manager.receive_submission()
    assert (submission.run, submission.run_title) == ("nightly-1", "Nightly 1")
    assert [t.id for t in submission.tasks] == ["a", "b"]
    await manager.accept(submission)
    assert await running == Receipt(accepted=2, known=0)


async def test_submit_returns_none_if_no_answer_comes_and_the_tasks_are_in_the_queue(
    manager: FakeManagerOfClient, client: Client
) -> None:
    assert await client.submit("run", [task()], wait=0.05) is None
    assert (await manager.receive_submission()).tasks == (task(),)


async def test_a_refused_submission_raises_an_error_with_the_reason(
    manager: FakeManagerOfClient, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    submission = await manager.receive_submission()
    await manager.publish_run_event(
        "run", RunStatus.REFUSED, submission_id=submission.submission_id, reason="because"
    )
    with pytest.raises(UsageError, match="because"):
        await running


async def test_complete_follows_a_run_until_it_is_completed(
    manager: FakeManagerOfClient, client: Client
) -> None:
    seen: list[str] = []
    running = asyncio.create_task(
        client.complete("run", [task("a"), task("b")], lambda event: seen.append(event.id))
    )
    await manager.accept(await manager.receive_submission())
    await manager.end_tasks("run", "a")
    await manager.end_tasks("run", "b")
    await manager.complete_run("run", 2)
    result = await running
    assert seen == ["a", "b"]
    assert result.has_succeeded
    assert {id: event.worker for id, event in result.tasks.items()} == {"a": "Ada", "b": "Ada"}


async def test_a_completed_event_before_our_submission_is_accepted_does_not_end_the_wait(
    manager: FakeManagerOfClient, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    submission = await manager.receive_submission()
    await manager.complete_run("run", 7)
    await manager.publish_run_event("run", RunStatus.ACCEPTED, submission_id="another", accepted=1)
    await asyncio.sleep(0.02)
    assert not running.done()
    await manager.accept(submission)
    await manager.complete_run("run", 8)
    assert (await running).counts == {TaskStatus.SUCCEEDED: 8}


async def test_events_of_another_run_are_ignored(
    manager: FakeManagerOfClient, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await manager.accept(await manager.receive_submission())
    await manager.end_tasks("run-2", "a")
    await manager.complete_run("run-2", 1)
    await manager.complete_run("run", 1)
    await manager.reply(await manager.receive_query(), RunStatus.COMPLETED)
    assert not (await running).tasks


async def test_unreadable_events_are_ignored(manager: FakeManagerOfClient, client: Client) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await manager.accept(await manager.receive_submission())
    for body in (b"?", b'{"type": "run_event", "schema_version": 9}', b'{"type": "stop"}'):
        await manager.transport.publish(topology.EVENTS, "run.run.x", Outgoing(body, "?"))
    await manager.complete_run("run", 1)
    assert (await running).has_succeeded


# --- silence


@pytest.mark.usefixtures("short_silence")
async def test_after_a_silence_the_client_sends_a_status_query_and_does_not_resubmit(
    manager: FakeManagerOfClient, client: Client
) -> None:
    """Events may be lost, for example when the broker restarts."""
    running = asyncio.create_task(client.complete("Run", [task()]))
    submission = await manager.receive_submission()
    queries = [await manager.receive_query() for _ in range(3)]
    assert {(q.submission_id, q.run, q.store) for q in queries} == {
        (submission.submission_id, "run", "")
    }
    assert len({q.number for q in queries}) == 3
    await manager.reply(queries[-1], RunStatus.ACCEPTED, accepted=1)
    query = await manager.receive_query()
    assert query.store == "s"
    await manager.end_tasks("run", "a")
    await manager.reply(query, RunStatus.COMPLETED, counts={"succeeded": 1})
    assert (await running).counts == {TaskStatus.SUCCEEDED: 1}
    assert manager.submissions == [submission]


@pytest.mark.usefixtures("short_silence")
async def test_an_unknown_submission_is_sent_again_unchanged(
    manager: FakeManagerOfClient, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    first = await manager.receive_submission()
    await manager.reply(await manager.receive_query(), RunStatus.UNKNOWN)
    assert await manager.receive_submission() == first
    await manager.accept(first)
    await manager.end_tasks("run", "a")
    await manager.complete_run("run", 1)
    assert (await running).has_succeeded


@pytest.mark.usefixtures("short_silence")
async def test_several_replies_that_a_submission_is_unknown_resend_it_once(
    manager: FakeManagerOfClient, client: Client
) -> None:
    """A manager that was away for an hour finds hundreds of queries."""
    running = asyncio.create_task(client.complete("run", [task()]))
    await manager.receive_submission()
    queries = [await manager.receive_query() for _ in range(5)]
    for query in queries:
        await manager.reply(query, RunStatus.UNKNOWN)
    again = await manager.receive_submission()
    for query in queries:
        await manager.reply(query, RunStatus.UNKNOWN)
    await manager.receive_query()
    assert manager.submissions == [again, again]
    await manager.accept(again)
    await manager.end_tasks("run", "a")
    await manager.complete_run("run", 1)
    await running


@pytest.mark.usefixtures("short_silence")
async def test_a_lost_refusal_is_raised_when_a_status_reply_repeats_it(
    manager: FakeManagerOfClient, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await manager.receive_submission()
    await manager.reply(await manager.receive_query(), RunStatus.REFUSED, reason="because")
    with pytest.raises(UsageError, match="because"):
        await running


# --- events of tasks that were lost


async def test_at_the_end_of_a_run_the_client_queries_tasks_whose_events_were_lost(
    manager: FakeManagerOfClient, client: Client
) -> None:
    seen: list[str] = []
    running = asyncio.create_task(
        client.complete("run", [task("a"), task("b"), task("c")], lambda e: seen.append(e.id))
    )
    await manager.accept(await manager.receive_submission())
    await manager.end_tasks("run", "b")
    await manager.complete_run("run", 3)
    query = await manager.receive_query()
    assert query.tasks == ("a", "c")
    await manager.reply(query, RunStatus.COMPLETED, "a", more=True)
    await manager.reply(query, RunStatus.COMPLETED, "c")
    result = await running
    assert seen == ["b", "a", "c"]
    assert {id: event.worker for id, event in result.tasks.items()} == dict.fromkeys("bac", "Ada")


async def test_many_missing_tasks_are_queried_in_groups_of_500(
    manager: FakeManagerOfClient, client: Client
) -> None:
    ids = [str(n) for n in range(1234)]
    running = asyncio.create_task(client.complete("run", [task(id) for id in ids]))
    await manager.accept(await manager.receive_submission())
    await manager.complete_run("run", len(ids))
    for _ in range(3):
        query = await manager.receive_query()
        await manager.reply(query, RunStatus.COMPLETED, *query.tasks)
    assert [len(query.tasks) for query in manager.queries] == [500, 500, 234]
    assert list((await running).tasks) == ids


async def test_a_second_completion_during_a_query_does_not_delay_the_result(
    manager: FakeManagerOfClient, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await manager.accept(await manager.receive_submission())
    await manager.complete_run("run", 1)
    query = await manager.receive_query()
    await manager.complete_run("run", 2)
    await manager.reply(query, RunStatus.COMPLETED, "a")
    result = await running
    assert (result.counts, list(result.tasks)) == ({TaskStatus.SUCCEEDED: 2}, ["a"])
    assert manager.queries == [query]


async def test_tasks_that_are_missing_in_a_status_reply_are_not_queried_again(
    manager: FakeManagerOfClient, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task("a"), task("b")]))
    await manager.accept(await manager.receive_submission())
    await manager.complete_run("run", 2)
    await manager.reply(await manager.receive_query(), RunStatus.COMPLETED, "a")
    assert list((await running).tasks) == ["a"]


async def test_complete_returns_the_counts_even_if_no_manager_answers_the_query(
    manager: FakeManagerOfClient, client: Client
) -> None:
    """The manager may have stopped after the last task."""
    running = asyncio.create_task(client.complete("run", [task()]))
    await manager.accept(await manager.receive_submission())
    await manager.complete_run("run", 1)
    async with asyncio.timeout(5):
        result = await running
    assert (result.counts, result.tasks) == ({TaskStatus.SUCCEEDED: 1}, {})


# --- large submissions


async def test_a_submission_that_is_too_large_for_one_message_is_sent_in_parts(
    manager: FakeManagerOfClient, client: Client
) -> None:
    big = {"x": "y" * 200_000}
    chain = [
        task(str(n), payload=big, depends_on=[str(n + 1)] if n < 11 else []) for n in range(12)
    ]
    running = asyncio.create_task(client.submit("run", chain))
    while sum(len(s.tasks) for s in manager.submissions) < 12:
        await manager.receive_submission()
    assert [(s.part, s.parts) for s in manager.submissions] == [(1, 3), (2, 3), (3, 3)]
    assert len({s.submission_id for s in manager.submissions}) == 1
    assert [t for s in manager.submissions for t in s.tasks] == chain
    await manager.publish_run_event(
        "run", RunStatus.ACCEPTED, submission_id=manager.submissions[0].submission_id, accepted=12
    )
    assert await running == Receipt(accepted=12, known=0)


async def test_a_submission_with_too_many_parts_is_refused_in_one_line_before_any_is_sent(
    manager: FakeManagerOfClient, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq.client.submission.TASKS_BYTES", 50)
    with pytest.raises(UsageError) as caught:
        await client.submit("run", [task(str(n)) for n in range(65)])
    assert str(caught.value) == (
        "65 tasks need 65 messages, and one submission may have 64: "
        "submit them in several, or let payloads refer to what is elsewhere"
    )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await manager.receive()


def test_a_message_holds_at_most_the_number_of_tasks_that_can_be_decided_in_time() -> None:
    """The manager decides up to 64 messages as a whole, within a leader's lease."""
    messages = follow_submission("run", [task(str(n)) for n in range(2 * MAX_TASKS + 1)]).messages
    parts = [decode(message.body) for message in messages]
    sizes = [len(part.tasks) for part in parts if isinstance(part, Submission)]
    assert sizes == [MAX_TASKS, MAX_TASKS, 1]


async def test_a_task_that_is_too_large_for_any_message_is_refused_and_named(
    client: Client,
) -> None:
    others = [task(f"{'x' * 120}{n}") for n in range(9000)]
    last = task("last", depends_on=[other.id for other in others])
    with pytest.raises(UsageError, match=r"^task last: is \d+ bytes, and a message holds 104"):
        await client.submit("run", [*others, last])


@pytest.mark.parametrize("tasks", [[task("a"), task("a")], [task("a", depends_on=["a"])]])
async def test_duplicate_or_cyclic_tasks_are_refused_before_they_are_sent(
    client: Client, tasks: list[Task]
) -> None:
    with pytest.raises(UsageError, match=r"^task a: "):
        await client.submit("run", tasks)


# --- no manager, and tasks that cannot be submitted


async def test_submit_waits_for_a_manager_that_starts_later() -> None:
    manager = FakeManagerOfClient(MemoryBroker())
    async with manager.transport, MemoryTransport(manager.transport._broker) as transport:
        client = Client(transport, patience=10, clock=loop_clock())
        running = asyncio.create_task(client.submit("run", [task()]))
        await asyncio.sleep(0.05)
        await manager.open()
        await manager.accept(await manager.receive_submission())
        assert await running == Receipt(1, 0)


async def test_without_a_manager_submit_raises_unreachable_with_a_remedy() -> None:
    async with MemoryTransport(MemoryBroker()) as transport:
        with pytest.raises(Unreachable) as caught:
            await Client(transport, patience=0.1, clock=loop_clock()).submit("run", [task()])
    assert str(caught.value).startswith("no manager has served this broker for 0.1 s (")
    assert str(caught.value).endswith("; start one: skillq manager")


async def test_tasks_that_cannot_be_encoded_are_refused_before_they_are_sent(
    manager: FakeManagerOfClient, client: Client
) -> None:
    nested: list[object] = []
    for _ in range(220):
        nested = [nested]
    with pytest.raises(UsageError, match="task a: its payload cannot be sent as JSON: "):
        await client.submit("run", [task("a", payload={"x": nested})])
    lone_surrogate = Task.model_construct(**(task().model_dump() | {"description": "\ud800"}))
    with pytest.raises(UsageError, match="task a: its payload cannot be sent as JSON: "):
        await client.submit("run", [lone_surrogate])
    assert not manager.submissions


@pytest.mark.parametrize(
    ("run", "tasks", "complaint"),
    [
        ("run", [], "there are no tasks; submit at least one"),
        ("…", [task()], "run '…': '…' has no letter a-z or digit to make a name from"),
        ("a" + "!" * 120, [task()], f"run 'a{'!' * 120}': should have at most 120 characters"),
    ],
)
async def test_an_invalid_submission_is_refused_in_one_line(
    manager: FakeManagerOfClient, client: Client, run: str, tasks: list[Task], complaint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        await client.submit(run, tasks)
    assert str(caught.value) == complaint
    assert not manager.submissions


def test_a_client_name_that_makes_no_routing_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no letter"):
        Client(MemoryTransport(MemoryBroker()), name="…")


def test_a_number_as_name_of_a_run_becomes_its_digits() -> None:
    (message,) = follow_submission(2024, [task("a")]).messages  # type: ignore[arg-type]
    read = decode(message.body)
    assert isinstance(read, Submission)
    assert (read.run, read.run_title) == ("2024", "2024")


def test_an_iterator_as_tasks_is_refused_instead_of_submitting_nothing() -> None:
    with pytest.raises(UsageError, match="there are no tasks"):
        follow_submission("run", (task(id) for id in "ab"))  # type: ignore[arg-type]
