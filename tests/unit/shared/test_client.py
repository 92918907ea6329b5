"""The client: what it hands in is safe, answered and followed to its end, whatever is lost on the way."""

import asyncio

import pytest

from skillq import timings, topology
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
from tests.support.virtual_time import loop_clock
from tests.unit.shared.desk import Desk, task


async def test_a_submission_is_answered_with_how_many_are_new(desk: Desk, client: Client) -> None:
    running = asyncio.create_task(client.submit("Nightly 1", [task("a"), task("b")]))
    taken = await desk.take()
    assert (taken.run, taken.run_title) == ("nightly-1", "Nightly 1")
    assert [t.id for t in taken.tasks] == ["a", "b"]
    await desk.accept(taken)
    assert await running == Receipt(accepted=2, known=0)


async def test_without_an_answer_in_time_the_tasks_are_safe_all_the_same(
    desk: Desk, client: Client
) -> None:
    assert await client.submit("run", [task()], wait=0.05) is None
    assert (await desk.take()).tasks == (task(),)


async def test_a_refusal_is_raised_with_its_reason(desk: Desk, client: Client) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    taken = await desk.take()
    await desk.say("run", RunStatus.REFUSED, submission_id=taken.submission_id, reason="because")
    with pytest.raises(UsageError, match="because"):
        await running


async def test_a_run_is_followed_until_it_is_completed(desk: Desk, client: Client) -> None:
    seen: list[str] = []
    running = asyncio.create_task(
        client.complete("run", [task("a"), task("b")], lambda event: seen.append(event.id))
    )
    await desk.accept(await desk.take())
    await desk.end("run", "a")
    await desk.end("run", "b")
    await desk.complete("run", 2)
    result = await running
    assert seen == ["a", "b"]
    assert result.has_succeeded
    assert {id: event.worker for id, event in result.tasks.items()} == {"a": "Ada", "b": "Ada"}


async def test_another_submission_s_completion_before_ours_is_answered_does_not_end_it(
    desk: Desk, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    taken = await desk.take()
    await desk.complete("run", 7)
    await desk.say("run", RunStatus.ACCEPTED, submission_id="another", accepted=1)
    await asyncio.sleep(0.02)
    assert not running.done()
    await desk.accept(taken)
    await desk.complete("run", 8)
    assert (await running).counts == {TaskStatus.SUCCEEDED: 8}


async def test_events_of_another_run_are_not_ours(desk: Desk, client: Client) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await desk.accept(await desk.take())
    await desk.end("run-2", "a")
    await desk.complete("run-2", 1)
    await desk.complete("run", 1)
    await desk.answer(await desk.question(), RunStatus.COMPLETED)
    assert not (await running).tasks


async def test_events_that_cannot_be_read_are_passed_over(desk: Desk, client: Client) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await desk.accept(await desk.take())
    for body in (b"?", b'{"type": "run_event", "schema_version": 9}', b'{"type": "stop"}'):
        await desk.transport.publish(topology.EVENTS, "run.run.x", Outgoing(body, "?"))
    await desk.complete("run", 1)
    assert (await running).has_succeeded


# --- silence


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "CLIENT_SILENCE_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_after_a_silence_the_manager_is_asked_and_nothing_is_submitted_again(
    desk: Desk, client: Client
) -> None:
    """Events may have been missed, as when the broker was restarted."""
    running = asyncio.create_task(client.complete("Run", [task()]))
    taken = await desk.take()
    questions = [await desk.question() for _ in range(3)]
    assert {(q.submission_id, q.run, q.store) for q in questions} == {
        (taken.submission_id, "run", "")
    }
    assert len({q.number for q in questions}) == 3
    await desk.answer(questions[-1], RunStatus.ACCEPTED, accepted=1)
    asked = await desk.question()
    assert asked.store == "s"
    await desk.end("run", "a")
    await desk.answer(asked, RunStatus.COMPLETED, counts={"succeeded": 1})
    assert (await running).counts == {TaskStatus.SUCCEEDED: 1}
    assert desk.taken == [taken]


@pytest.mark.usefixtures("impatient")
async def test_a_submission_that_nobody_has_is_handed_in_again_as_it_was(
    desk: Desk, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    first = await desk.take()
    await desk.answer(await desk.question(), RunStatus.UNKNOWN)
    assert await desk.take() == first
    await desk.accept(first)
    await desk.end("run", "a")
    await desk.complete("run", 1)
    assert (await running).has_succeeded


@pytest.mark.usefixtures("impatient")
async def test_answers_to_all_that_was_asked_meanwhile_bring_it_once(
    desk: Desk, client: Client
) -> None:
    """A manager that was away for an hour finds hundreds of questions."""
    running = asyncio.create_task(client.complete("run", [task()]))
    await desk.take()
    questions = [await desk.question() for _ in range(5)]
    for asked in questions:
        await desk.answer(asked, RunStatus.UNKNOWN)
    again = await desk.take()
    for asked in questions:
        await desk.answer(asked, RunStatus.UNKNOWN)
    await desk.question()
    assert desk.taken == [again, again]
    await desk.accept(again)
    await desk.end("run", "a")
    await desk.complete("run", 1)
    await running


@pytest.mark.usefixtures("impatient")
async def test_a_refusal_that_was_missed_is_heard_when_asked_for(
    desk: Desk, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await desk.take()
    await desk.answer(await desk.question(), RunStatus.REFUSED, reason="because")
    with pytest.raises(UsageError, match="because"):
        await running


# --- tasks that ended unheard


async def test_how_tasks_ended_that_were_not_heard_of_is_asked_for_at_the_end(
    desk: Desk, client: Client
) -> None:
    seen: list[str] = []
    running = asyncio.create_task(
        client.complete("run", [task("a"), task("b"), task("c")], lambda e: seen.append(e.id))
    )
    await desk.accept(await desk.take())
    await desk.end("run", "b")
    await desk.complete("run", 3)
    asked = await desk.question()
    assert asked.tasks == ("a", "c")
    await desk.answer(asked, RunStatus.COMPLETED, "a", more=True)
    await desk.answer(asked, RunStatus.COMPLETED, "c")
    result = await running
    assert seen == ["b", "a", "c"]
    assert {id: event.worker for id, event in result.tasks.items()} == dict.fromkeys("bac", "Ada")


async def test_many_of_them_are_asked_for_some_at_a_time(desk: Desk, client: Client) -> None:
    ids = [str(n) for n in range(1234)]
    running = asyncio.create_task(client.complete("run", [task(id) for id in ids]))
    await desk.accept(await desk.take())
    await desk.complete("run", len(ids))
    for _ in range(3):
        asked = await desk.question()
        await desk.answer(asked, RunStatus.COMPLETED, *asked.tasks)
    assert [len(asked.tasks) for asked in desk.asked] == [500, 500, 234]
    assert list((await running).tasks) == ids


async def test_a_run_that_is_completed_once_more_meanwhile_keeps_nobody_waiting(
    desk: Desk, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task()]))
    await desk.accept(await desk.take())
    await desk.complete("run", 1)
    asked = await desk.question()
    await desk.complete("run", 2)
    await desk.answer(asked, RunStatus.COMPLETED, "a")
    result = await running
    assert (result.counts, list(result.tasks)) == ({TaskStatus.SUCCEEDED: 2}, ["a"])
    assert desk.asked == [asked]


async def test_what_the_manager_cannot_tell_of_is_not_asked_for_again(
    desk: Desk, client: Client
) -> None:
    running = asyncio.create_task(client.complete("run", [task("a"), task("b")]))
    await desk.accept(await desk.take())
    await desk.complete("run", 2)
    await desk.answer(await desk.question(), RunStatus.COMPLETED, "a")
    assert list((await running).tasks) == ["a"]


async def test_the_end_of_a_run_is_told_though_nobody_tells_of_its_tasks(
    desk: Desk, client: Client
) -> None:
    """The manager may have left when all was done."""
    running = asyncio.create_task(client.complete("run", [task()]))
    await desk.accept(await desk.take())
    await desk.complete("run", 1)
    async with asyncio.timeout(5):
        result = await running
    assert (result.counts, result.tasks) == ({TaskStatus.SUCCEEDED: 1}, {})


# --- what is large


async def test_what_is_too_large_for_a_message_comes_in_parts_of_one_submission(
    desk: Desk, client: Client
) -> None:
    big = {"x": "y" * 200_000}
    chain = [
        task(str(n), payload=big, depends_on=[str(n + 1)] if n < 11 else []) for n in range(12)
    ]
    running = asyncio.create_task(client.submit("run", chain))
    while sum(len(s.tasks) for s in desk.taken) < 12:
        await desk.take()
    assert [(s.part, s.parts) for s in desk.taken] == [(1, 3), (2, 3), (3, 3)]
    assert len({s.submission_id for s in desk.taken}) == 1
    assert [t for s in desk.taken for t in s.tasks] == chain
    await desk.say(
        "run", RunStatus.ACCEPTED, submission_id=desk.taken[0].submission_id, accepted=12
    )
    assert await running == Receipt(accepted=12, known=0)


async def test_what_would_come_in_too_many_parts_is_refused_in_one_line_before_any_is_sent(
    desk: Desk, client: Client, monkeypatch: pytest.MonkeyPatch
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
            await desk.receive()


def test_a_message_holds_no_more_tasks_than_can_be_decided_in_time() -> None:
    """64 messages are decided as a whole, within a leader's lease."""
    messages = follow_submission("run", [task(str(n)) for n in range(2 * MAX_TASKS + 1)]).messages
    parts = [decode(message.body) for message in messages]
    sizes = [len(part.tasks) for part in parts if isinstance(part, Submission)]
    assert sizes == [MAX_TASKS, MAX_TASKS, 1]


async def test_a_task_that_no_message_can_hold_is_refused_by_name(client: Client) -> None:
    others = [task(f"{'x' * 120}{n}") for n in range(9000)]
    last = task("last", depends_on=[other.id for other in others])
    with pytest.raises(UsageError, match=r"^task last: is \d+ bytes, and a message holds 104"):
        await client.submit("run", [*others, last])


@pytest.mark.parametrize("tasks", [[task("a"), task("a")], [task("a", depends_on=["a"])]])
async def test_tasks_that_can_never_all_be_done_are_refused_before_they_are_sent(
    client: Client, tasks: list[Task]
) -> None:
    with pytest.raises(UsageError, match=r"^task a: "):
        await client.submit("run", tasks)


# --- managers that are not there


async def test_a_manager_that_starts_later_is_waited_for() -> None:
    desk = Desk(MemoryBroker())
    async with desk.transport, MemoryTransport(desk.transport._broker) as transport:
        client = Client(transport, patience=10, clock=loop_clock())
        running = asyncio.create_task(client.submit("run", [task()]))
        await asyncio.sleep(0.05)
        await desk.open()
        await desk.accept(await desk.take())
        assert await running == Receipt(1, 0)


async def test_a_manager_that_never_was_there_is_unreachable_and_the_remedy_is_said() -> None:
    async with MemoryTransport(MemoryBroker()) as transport:
        with pytest.raises(Unreachable) as caught:
            await Client(transport, patience=0.1, clock=loop_clock()).submit("run", [task()])
    assert str(caught.value).startswith("no manager has served this broker for 0.1 s (")
    assert str(caught.value).endswith("; start one: skillq manager")


async def test_tasks_that_no_manager_could_read_are_refused_before_they_are_sent(
    desk: Desk, client: Client
) -> None:
    deep: list[object] = []
    for _ in range(220):
        deep = [deep]
    with pytest.raises(UsageError, match="task a: its payload cannot be sent as JSON: "):
        await client.submit("run", [task("a", payload={"x": deep})])
    half = Task.model_construct(**(task().model_dump() | {"description": "\ud800"}))
    with pytest.raises(UsageError, match="task a: its payload cannot be sent as JSON: "):
        await client.submit("run", [half])
    assert not desk.taken


@pytest.mark.parametrize(
    ("run", "tasks", "complaint"),
    [
        ("run", [], "there are no tasks; submit at least one"),
        ("…", [task()], "run '…': '…' has no letter a-z or digit to make a name from"),
        ("a" + "!" * 120, [task()], f"run 'a{'!' * 120}': should have at most 120 characters"),
    ],
)
async def test_what_can_be_no_submission_is_refused_in_one_line(
    desk: Desk, client: Client, run: str, tasks: list[Task], complaint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        await client.submit(run, tasks)
    assert str(caught.value) == complaint
    assert not desk.taken


def test_a_client_s_name_makes_its_routing_key() -> None:
    with pytest.raises(ValueError, match="no letter"):
        Client(MemoryTransport(MemoryBroker()), name="…")


def test_a_run_that_is_named_by_a_number_is_named_by_its_digits() -> None:
    (message,) = follow_submission(2024, [task("a")]).messages  # type: ignore[arg-type]
    read = decode(message.body)
    assert isinstance(read, Submission)
    assert (read.run, read.run_title) == ("2024", "2024")


def test_tasks_that_can_be_read_but_once_are_not_taken_for_none_that_were_handed_in() -> None:
    with pytest.raises(UsageError, match="there are no tasks"):
        follow_submission("run", (task(id) for id in "ab"))  # type: ignore[arg-type]
