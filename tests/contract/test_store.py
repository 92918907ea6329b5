"""The contract of the store: every implementation (`conftest.py`) keeps the same promises."""

from typing import Any

import pytest

from skillq.messages import (
    AttemptRef,
    Outcome,
    Task,
    TaskStatus,
    WorkerEventKind,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.store.base import Store, TaskFilter, TaskRow
from tests.contract.store_history import task_with_body
from tests.support.commands import (
    FAILED,
    JUNIOR,
    READY,
    RUNNING,
    SENIOR,
    SUCCEEDED,
    add,
    assign,
    end,
    start,
    task_result,
)
from tests.support.factories import profile, submission, task


async def row_of(store: Store, of: c.AddTask) -> TaskRow:
    row = await store.task(of.key)
    assert row is not None
    return row


async def counts_of(store: Store, run: str = "default") -> dict[TaskStatus, int]:
    """Return the counts without zeros, which a store may show or not."""
    row = await store.run(run)
    assert row is not None
    return {status: n for status, n in row.counts.items() if n}


async def ids(store: Store, **which: Any) -> list[str]:
    return [row.task.id for row in await store.tasks(TaskFilter(**which))]


# --- tasks and attempts ----------------------------------------------------------------------


async def test_a_task_is_read_as_it_was_added(store: Store) -> None:
    full_task = Task(
        id="a.b:c@d",
        difficulty=7,
        description="Größe, 🦀 und 'quotes'",
        type="OCR scan",
        priority=9,
        requires=("gpu", "ocr"),
        depends_on=("x",),
        payload={"deep": [{"list": [1, 2.5, None, True, "ü"]}], "empty": {}},
        timeout=0.5,
        max_attempts=4,
    )
    await store.commit([add(7, full_task, status=TaskStatus.BLOCKED)])
    row = await store.task(("default", "a.b:c@d"))
    assert row == TaskRow(
        run="default",
        seq=7,
        task=full_task,
        fingerprint=full_task.fingerprint(),
        status=TaskStatus.BLOCKED,
        submitted_at=107.0,
    )


async def test_an_assignment_opens_an_attempt_and_clears_the_reason(store: Store) -> None:
    a = add(1)
    await store.commit([a, assign(a)])
    row = await row_of(store, a)
    assert (row.status, row.worker, row.attempt) == (TaskStatus.ASSIGNED, "Junior 1", 1)
    (attempt,) = row.attempts
    assert (attempt.attempt, attempt.worker, attempt.incarnation) == (1, "Junior 1", "1")
    assert (attempt.assigned_at, attempt.started_at, attempt.outcome) == (200.0, None, None)
    assert attempt.counted


async def test_a_start_is_shown_on_the_task_and_on_its_attempt(store: Store) -> None:
    a = add(1)
    await store.commit([a, assign(a), start(a)])
    row = await row_of(store, a)
    assert (row.status, row.started_at, row.attempts[0].started_at) == (RUNNING, 201.0, 201.0)
    assert row.finished_at is None


@pytest.mark.parametrize("output", [None, 0, "", "text", [1, {"a": None}], {"größe": 1.5}])
async def test_a_success_keeps_the_output_and_the_workers_own_times(
    store: Store, output: Any
) -> None:
    a = add(1)
    result = task_result(a, output=output, started_at=202.5, finished_at=203.5)
    await store.commit([a, assign(a), start(a), end(a, result=result)])
    row = await row_of(store, a)
    assert (row.status, row.output, row.error) == (SUCCEEDED, output, None)
    assert (row.started_at, row.finished_at) == (202.5, 203.5)
    (attempt,) = row.attempts
    assert (attempt.started_at, attempt.finished_at) == (202.5, 203.5)
    assert attempt.outcome is Outcome.SUCCEEDED


async def test_an_attempt_that_ends_without_a_result_has_the_managers_time(store: Store) -> None:
    a = add(1)
    lost = end(a, Outcome.LOST, TaskStatus.DEAD_LETTERED, reason="lost too often")
    await store.commit([a, assign(a), start(a), lost])
    row = await row_of(store, a)
    assert (row.status, row.reason, row.error) == (
        TaskStatus.DEAD_LETTERED,
        "lost too often",
        "lost too often",
    )
    assert (row.started_at, row.finished_at, row.output) == (201.0, 300.0, None)
    assert (row.attempts[0].finished_at, row.attempts[0].error) == (300.0, "lost too often")


async def test_a_failure_that_is_retried_ends_the_attempt_and_not_the_task(
    store: Store,
) -> None:
    a = add(1)
    failed = end(
        a, Outcome.FAILED, READY, reason="no", result=task_result(a, outcome=Outcome.FAILED)
    )
    await store.commit([a, assign(a), failed])
    row = await row_of(store, a)
    assert (row.status, row.reason, row.finished_at, row.error) == (READY, "no", None, None)
    assert (row.attempts[0].outcome, row.attempts[0].error) == (Outcome.FAILED, "no")
    await store.commit(
        [assign(a, 2, SENIOR), end(a, attempt=2, result=task_result(a, 2, output=1))]
    )
    row = await row_of(store, a)
    assert [(x.attempt, x.worker, x.outcome) for x in row.attempts] == [
        (1, "Junior 1", Outcome.FAILED),
        (2, "Senior", Outcome.SUCCEEDED),
    ]
    assert (row.worker, row.attempt, row.output) == ("Senior", 2, 1)


async def test_a_task_that_ends_without_an_attempt_has_a_reason(store: Store) -> None:
    a = add(1, status=TaskStatus.BLOCKED)
    failed = c.SetStatus(a.key, "task", FAILED, "dependency x failed", 0, 300.0)
    await store.commit([a, failed])
    row = await row_of(store, a)
    assert (row.status, row.reason, row.finished_at) == (FAILED, "dependency x failed", 300.0)
    assert row.attempts == []


async def test_a_task_whose_dependencies_are_done_is_ready(store: Store) -> None:
    a = add(1, status=TaskStatus.BLOCKED)
    await store.commit([a, c.SetStatus(a.key, "task", READY, None, 0, 300.0)])
    row = await row_of(store, a)
    assert (row.status, row.finished_at) == (READY, None)


async def test_a_stale_result_is_recorded_and_changes_nothing(store: Store) -> None:
    a = add(1)
    await store.commit([a, assign(a), end(a, result=task_result(a, output=1))])
    before = await counts_of(store)
    late_result = task_result(
        a, output=2, outcome=Outcome.FAILED, error="late", started_at=1.0, finished_at=2.0
    )
    await store.commit([c.RecordStaleResult(late_result, "junior-1", "other")])
    row = await row_of(store, a)
    assert (row.status, row.output, row.worker, row.attempt) == (SUCCEEDED, 1, "Junior 1", 1)
    assert await counts_of(store) == before
    (counted, stale) = row.attempts
    assert (counted.counted, counted.outcome) == (True, Outcome.SUCCEEDED)
    assert (stale.counted, stale.worker, stale.incarnation) == (False, "junior-1", "other")
    assert (stale.outcome, stale.error, stale.finished_at) == (Outcome.FAILED, "late", 2.0)


async def test_a_stale_result_of_the_same_attempt_does_not_hide_the_counted_one(
    store: Store,
) -> None:
    a = add(1)
    await store.commit([a, assign(a), c.RecordStaleResult(task_result(a), "senior", "other")])
    await store.commit([start(a), end(a)])
    row = await row_of(store, a)
    assert {x.counted: x.outcome for x in row.attempts} == {
        True: Outcome.SUCCEEDED,
        False: Outcome.SUCCEEDED,
    }
    assert next(x for x in row.attempts if x.counted).started_at == 201.0


async def test_a_stale_result_of_an_unknown_task_is_ignored(store: Store) -> None:
    await store.commit([c.RecordStaleResult(task_result(add(1)), "junior-1", "1")])
    assert await store.task(("default", "1")) is None
    assert await store.runs() == []


async def test_commands_that_are_not_for_the_store_are_ignored(store: Store) -> None:
    ref = AttemptRef(run="default", id="a", attempt=1)
    await store.commit([])
    await store.commit(
        [
            c.AnswerSubmission(submission(task()), 1, 0, None, 1.0),
            c.Resend(("default", "a"), 1, JUNIOR),
            c.CancelAttempts(JUNIOR, "", (ref,)),
        ]
    )
    assert (await store.runs(), await ids(store), await store.workers()) == ([], [], [])


# --- queries of the core ---------------------------------------------------------------------


async def test_known_tasks_have_their_status_and_fingerprint(store: Store) -> None:
    a, b = add(1), add(2, run="other")
    await store.commit([a, b, assign(a)])
    known = await store.known_tasks([a.key, b.key, ("default", "nope"), ("other", a.key[1])])
    assert dict(known) == {
        a.key: e.StoredStatus(TaskStatus.ASSIGNED, a.fingerprint),
        b.key: e.StoredStatus(READY, b.fingerprint),
    }
    assert dict(await store.known_tasks([])) == {}


async def test_a_fingerprint_of_63_bits_is_read_as_written(store: Store) -> None:
    a = add(1, fingerprint=2**63 - 1)
    await store.commit([a])
    assert (await store.known_tasks([a.key]))[a.key].fingerprint == 2**63 - 1


async def test_a_body_has_the_definition_and_the_outputs_of_its_own_dependencies(
    store: Store,
) -> None:
    a, b = add(1), add(2)
    dependent = add(
        3, task("3", depends_on=("2", "1"), payload={"n": 1}), status=TaskStatus.BLOCKED
    )
    await store.commit([a, b, dependent, assign(a), assign(b)])
    await store.commit(
        [end(a, result=task_result(a, output={"x": 1})), end(b, result=task_result(b))]
    )
    bodies = await store.bodies([dependent.key, a.key])
    assert task_with_body("3", bodies[dependent.key]) == dependent.task
    assert bodies[dependent.key].dependencies == {"1": {"x": 1}, "2": None}
    assert task_with_body("1", bodies[a.key]) == a.task
    assert bodies[a.key].dependencies == {}


async def test_dependencies_are_those_of_the_same_run(store: Store) -> None:
    other, own = add(1, run="other"), add(2, task("1"))
    after = add(3, task("3", depends_on=("1",)))
    await store.commit([other, own, after, assign(other), assign(own)])
    await store.commit([end(other, result=task_result(other, output="other"))])
    await store.commit([end(own, result=task_result(own, output="own"))])
    assert (await store.bodies([after.key]))[after.key].dependencies == {"1": "own"}


async def test_names_with_a_null_character_find_nothing(store: Store) -> None:
    await store.commit([one := add(1)])
    run, id = one.key
    assert list(await store.known_tasks([one.key, (run, "a\0"), ("\0", id)])) == [one.key]
    assert await store.run("\0") is None
    assert await store.task(("r", "a\0b")) is None
    for which in (TaskFilter(run="\0"), TaskFilter(type="\0"), TaskFilter(worker="\0")):
        assert await store.tasks(which) == []
    assert await store.backlog_tasks(run, ("\0",)) == []
    (row,) = await store.tasks(TaskFilter(run=run, ids=(id, "\0")))
    assert row.task.id == id


# --- runs ------------------------------------------------------------------------------------


async def test_a_run_counts_its_tasks_by_status_after_every_change(store: Store) -> None:
    tasks = [add(n) for n in range(1, 5)]
    await store.commit(tasks)
    assert await counts_of(store) == {READY: 4}
    await store.commit([assign(one) for one in tasks] + [start(tasks[0])])
    assert await counts_of(store) == {TaskStatus.ASSIGNED: 3, RUNNING: 1}
    await store.commit([end(tasks[0]), end(tasks[1], Outcome.FAILED, FAILED)])
    await store.commit([end(tasks[2], Outcome.LOST, READY)])
    assert await counts_of(store) == {SUCCEEDED: 1, FAILED: 1, READY: 1, TaskStatus.ASSIGNED: 1}
    row = await store.run("default")
    assert row is not None
    assert (row.total, row.ended) == (4, 2)


async def test_a_run_keeps_the_title_and_time_of_its_first_submission(store: Store) -> None:
    await store.commit([add(1, run="night", run_title="Night Shift"), add(2, run="night")])
    row = await store.run("night")
    assert row is not None
    assert (row.run, row.title, row.submitted_at) == ("night", "Night Shift", 101.0)
    assert row.finished_at is None
    assert await store.run("Night Shift") is None


async def test_a_run_ends_once_and_reopens_with_its_next_task(store: Store) -> None:
    async def finished_at() -> float | None:
        row = await store.run("default")
        assert row is not None
        return row.finished_at

    await store.commit([add(1), c.CompleteRun("default", 300.0)])
    assert await finished_at() == 300.0
    await store.commit([c.CompleteRun("default", 400.0)])
    assert await finished_at() == 300.0
    await store.commit([add(2)])
    assert await finished_at() is None
    await store.commit([c.CompleteRun("default", 500.0), c.CompleteRun("nope", 500.0)])
    assert await finished_at() == 500.0


async def test_runs_are_listed_in_order_of_submission(store: Store) -> None:
    await store.commit([add(1, run="z"), add(2, run="a")])
    await store.commit([add(3, run="m"), add(4, run="a")])
    assert [row.run for row in await store.runs()] == ["z", "a", "m"]


# --- lists -----------------------------------------------------------------------------------


async def test_tasks_are_listed_in_order_of_submission_whatever_their_ids(store: Store) -> None:
    await store.commit([add(1, task("z")), add(2, task("10")), add(3, task("9"), run="other")])
    assert await ids(store) == ["z", "10", "9"]


async def test_tasks_match_every_field_of_the_filter(store: Store) -> None:
    a, b = add(1, task("a", type="ocr")), add(2, task("b", type="ocr"), run="other")
    d, blocked = add(3, task("d")), add(4, task("e"), status=TaskStatus.BLOCKED)
    await store.commit([a, b, d, blocked, assign(a), assign(b, worker=SENIOR), assign(d)])
    assert await ids(store, run="other") == ["b"]
    assert await ids(store, run="nope") == []
    assert await ids(store, status=TaskStatus.ASSIGNED) == ["a", "b", "d"]
    assert await ids(store, type="ocr") == ["a", "b"]
    assert await ids(store, worker="Junior 1") == ["a", "d"]
    assert await ids(store, worker="Junior 1", type="ocr", run="default") == ["a"]
    assert await ids(store, worker="junior-1") == []


async def test_tasks_are_found_by_their_ids_in_order_of_submission(store: Store) -> None:
    await store.commit(
        [add(1, task("z")), add(2, task("b")), add(3, task("a")), add(4, task("z"), run="other")]
    )
    assert await ids(store, run="default", ids=("a", "z", "z", "nope")) == ["z", "a"]
    assert await ids(store, run="default", ids=("a", "z"), limit=1) == ["z"]
    assert await ids(store, run="default", ids=("a", "z"), cursor=1) == ["a"]
    assert await ids(store, run="default", ids=()) == []
    assert await ids(store, ids=("z",)) == ["z", "z"]


async def test_pages_of_any_size_contain_every_task_once_and_in_order(store: Store) -> None:
    await store.commit([add(n, run="even" if n % 2 == 0 else "odd") for n in range(1, 24)])
    for limit in (1, 5, 23, 100):
        for run, wanted in ((None, range(1, 24)), ("even", range(2, 24, 2))):
            found: list[int] = []
            which = TaskFilter(run=run, limit=limit)
            while rows := await store.tasks(which):
                assert len(rows) <= limit
                found += [row.seq for row in rows]
                which = TaskFilter(run=run, limit=limit, cursor=rows[-1].seq)
            assert found == list(wanted)


async def test_an_unknown_task_is_none(store: Store) -> None:
    await store.commit([add(1)])
    assert await store.task(("default", "nope")) is None
    assert await store.task(("nope", "1")) is None
    assert await store.run("nope") is None


# --- workers ---------------------------------------------------------------------------------


async def test_a_worker_is_shown_once_with_its_last_profile_and_status(store: Store) -> None:
    again = profile("Junior 1", 4, incarnation="2", specialties=("ocr",), types=("a", "b"), slots=3)
    await store.commit(
        [
            c.SaveWorker(SENIOR, WorkerEventKind.CONNECTED, "", 1.0),
            c.SaveWorker(JUNIOR, WorkerEventKind.CONNECTED, "", 2.0),
            c.SaveWorker(JUNIOR, WorkerEventKind.LOST, "not heard of", 3.0),
        ]
    )
    (junior, senior) = await store.workers()
    assert (junior.profile, junior.status, junior.reason, junior.since) == (
        JUNIOR,
        WorkerEventKind.LOST,
        "not heard of",
        3.0,
    )
    assert senior.profile == SENIOR
    await store.commit([c.SaveWorker(again, WorkerEventKind.CONNECTED, "", 4.0)])
    (junior, _) = await store.workers()
    assert (junior.profile, junior.status) == (again, WorkerEventKind.CONNECTED)
