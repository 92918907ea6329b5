"""Every store refuses, loads and shows the same after random histories of the core."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import JsonValue

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.model import Need
from skillq_manager.store.base import AttemptRow, Store, StoreConflict, TaskFilter
from skillq_manager.store.memory import MemoryStore
from tests.contract.store_history import (
    CONNECTED,
    RUN,
    RandomHistory,
    add,
    all_pages,
    assign,
    end,
    fail,
    reopen,
    set_status,
    snapshot,
    stale,
    start,
    task_with_body,
    worker,
)

READY, BLOCKED, SUCCEEDED = TaskStatus.READY, TaskStatus.BLOCKED, TaskStatus.SUCCEEDED


async def _row(store: Store, id: str = "a") -> Any:
    row = await store.task((RUN, id))
    assert row is not None
    return row


async def _live(store: Store) -> list[Any]:
    return [row async for page in store.load() for row in page]


# --- committed data


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.timeout(120)
async def test_all_stores_show_the_same_after_any_history_of_the_core(
    store: Store, seed: int
) -> None:
    history, reference = RandomHistory(seed), MemoryStore()
    for n in range(160):
        commands = history.next_commands()
        await reference.commit(commands)
        await store.commit(commands)
        if n % 20 == 0:
            assert await snapshot(store, history.keys) == await snapshot(reference, history.keys)
    assert await snapshot(store, history.keys) == await snapshot(reference, history.keys)
    runs, statuses = [None, "alpha"], [None, *TaskStatus]
    for which in [
        TaskFilter(run, status, type, worker_name, 5)
        for run in runs
        for status in statuses
        for type, worker_name in [(None, None), ("gpu", None), (None, "Ada"), ("gpu", "GPU box")]
    ]:
        assert await all_pages(store, which) == await all_pages(reference, which), which


async def test_a_new_store_is_empty(store: Store) -> None:
    shown = await snapshot(store, [(RUN, "a")])
    assert shown == {
        "runs": [],
        "each run": [None],
        "pages": [],
        "tasks": [None],
        "workers": [],
        "live": [],
        "last_seq": 0,
        "known": {},
        "bodies": {},
    }
    assert store.id


async def test_several_commands_on_one_task_in_one_commit_are_applied_in_order(
    store: Store,
) -> None:
    await store.commit(
        [
            add(1, "a"),
            add(2, "b", BLOCKED),
            assign("a"),
            set_status("b", READY),
            assign("b"),
        ]
    )
    harder = Need("task", 7, frozenset(), frozenset({"ada"}))
    await store.commit(
        [
            start("a"),
            fail("a"),
            c.SetNeed((RUN, "a"), harder, "harder", 402.0),
            assign("a", 2, worker("Bob")),
            start("a", 2),
            fail("a", 2),
            assign("a", 3),
            start("b"),
        ]
    )
    row = await _row(store)
    assert (row.status, row.attempt, row.worker) == (TaskStatus.ASSIGNED, 3, "Ada")
    assert [(a.attempt, a.worker, a.outcome) for a in row.attempts] == [
        (1, "Ada", Outcome.FAILED),
        (2, "Bob", Outcome.FAILED),
        (3, "Ada", None),
    ]
    assert (await _row(store, "b")).status is TaskStatus.RUNNING
    found = await store.run(RUN)
    assert found is not None
    assert found.counts == {TaskStatus.ASSIGNED: 1, TaskStatus.RUNNING: 1}
    (live, _) = await _live(store)
    assert (live.need, live.failures, live.worker) == (harder, 2, "ada")


async def test_any_text_and_any_json_value_is_read_as_written(store: Store) -> None:
    words = 'it\'s "so" \\ \n\t ; -- % :x $1 ?1 {y} ü 漢 🙂 \u2028'
    outputs: list[JsonValue] = [
        None,
        False,
        0,
        "",
        "null",
        words,
        [],
        {},
        {"a": [1.5, -(2**63), None]},
        "x" * 200_000,
    ]
    for n, output in enumerate(outputs, 1):
        id = f"t.{n}:@+-"
        await store.commit([add(n, id, description=words, payload={"w": words}), assign(id)])
        await store.commit([end(id, output=output, status=TaskStatus.FAILED, reason=words)])
        row = await _row(store, id)
        assert row.output == output
        assert type(row.output) is type(output)
        assert (row.error, row.reason, row.attempts[0].error) == (words, words, words)
        assert (row.task.description, row.task.payload) == (words, {"w": words})


async def test_a_text_with_a_null_character_is_stored(store: Store) -> None:
    await store.commit([add(1, "a"), assign("a")])
    await store.commit([end("a", status=TaskStatus.FAILED, reason="no\0thing", output="\0")])
    row = await _row(store)
    assert row.error in {"no\0thing", "no\ufffdthing"}
    assert row.output == "\0"


async def test_thousands_of_keys_can_be_read_in_one_call(store: Store) -> None:
    adds = [add(n, f"t{n}", run=f"r{n % 3}", payload={"n": n}) for n in range(1, 6001)]
    await store.commit(adds)
    keys = [one.key for one in adds]
    unknown = [("r0", f"x{n}") for n in range(40_000)]
    known = await store.known_tasks(keys + unknown)
    assert known == {one.key: e.StoredStatus(READY, one.fingerprint) for one in adds}
    bodies = await store.bodies(keys)
    assert [task_with_body(one.key[1], bodies[one.key]) for one in adds] == [
        one.task for one in adds
    ]


# --- refused commits


@pytest.mark.parametrize(
    "command",
    [
        add(9, "held"),
        add(1, "new"),
        assign("held", 2),
        assign("ready", 2),
        assign("ready", 0),
        assign("blocked"),
        assign("done", 2),
        assign("nobody"),
        start("ready"),
        start("held", 2),
        start("done"),
        end("held", 2),
        end("held", 0),
        end("ready", 0),
        end("done"),
        fail("done"),
        fail("held", 2),
        set_status("held", TaskStatus.CANCELLED, 1),
        set_status("done", READY, 1),
        set_status("ready", TaskStatus.CANCELLED, 1),
        set_status("nobody", TaskStatus.CANCELLED),
        reopen("held"),
        reopen("ready", 0),
        reopen("done", 2),
        c.SetNeed((RUN, "done"), Need("task", 2, frozenset()), "", 1.0),
    ],
    ids=lambda command: "-".join(
        [type(command).__name__, command.key[1]]
        + [str(getattr(command, name)) for name in ("attempt", "status") if hasattr(command, name)]
    ),
)
async def test_a_command_that_breaks_a_precondition_refuses_its_whole_commit(
    store: Store, command: c.Command
) -> None:
    await store.commit(
        [add(1, "held"), add(2, "ready"), add(3, "blocked", BLOCKED), add(4, "done")]
    )
    await store.commit([add(5, "other", BLOCKED), assign("held"), assign("done"), end("done")])
    keys = [(RUN, id) for id in ("held", "ready", "blocked", "done", "other", "new", "more")]
    before = await snapshot(store, keys)
    good: list[c.Command] = [add(8, "more"), set_status("other", READY), CONNECTED, stale("held")]
    with pytest.raises(StoreConflict):
        await store.commit([*good, command, c.CompleteRun(RUN, 9.0)])
    assert await snapshot(store, keys) == before
    await store.commit(good)  # the store still works
    assert (await _row(store, "other")).status is READY


async def test_one_command_of_a_thousand_that_breaks_a_precondition_refuses_the_commit(
    store: Store,
) -> None:
    ids = [f"t{n}" for n in range(1000)]
    await store.commit([add(n, id) for n, id in enumerate(ids, 1)])
    await store.commit([assign(id) for id in ids])
    await store.commit([end(ids[500])])
    with pytest.raises(StoreConflict):
        await store.commit([end(id) for id in ids])
    found = await store.run(RUN)
    assert found is not None
    assert found.counts == {TaskStatus.ASSIGNED: 999, SUCCEEDED: 1}


@pytest.mark.parametrize("attempt", [0, 2])
async def test_the_first_attempt_of_a_new_task_must_have_the_number_1(
    store: Store, attempt: int
) -> None:
    with pytest.raises(StoreConflict):
        await store.commit([add(1, "a"), assign("a", attempt)])
    assert await store.task((RUN, "a")) is None


async def test_a_commit_that_ends_one_attempt_twice_is_refused(store: Store) -> None:
    await store.commit([add(1, "a"), assign("a")])
    with pytest.raises(StoreConflict):
        await store.commit([end("a"), end("a")])
    assert (await _row(store)).status is TaskStatus.ASSIGNED


# --- stale results


async def test_stale_results_are_recorded_and_change_nothing(store: Store) -> None:
    await store.commit([add(1, "a"), assign("a")])
    await store.commit([stale("a", 1, error="first"), stale("a", 1, error="second"), stale("a", 7)])
    await store.commit([stale("nobody"), fail("a"), assign("a", 2)])
    await store.commit([stale("a", 1, error="third", started_at=5.0, finished_at=6.0), end("a", 2)])
    row = await _row(store)
    assert [(a.attempt, a.counted, a.error) for a in row.attempts] == [
        (1, True, "no 1"),
        (1, False, "first"),
        (1, False, "second"),
        (1, False, "third"),
        (2, True, None),
        (7, False, None),
    ]
    assert row.attempts[3] == AttemptRow(
        1, "unknown", "0", 5.0, 5.0, 6.0, Outcome.FAILED, "third", counted=False
    )
    assert (row.status, row.attempt) == (SUCCEEDED, 2)


# --- loading


async def test_only_open_tasks_are_loaded_in_order_and_without_payloads(
    store: Store,
) -> None:
    await store.commit(
        [add(n, f"t{n}", payload={"n": n}, description="x") for n in range(1, 12_001)]
    )
    await store.commit([assign(f"t{n}") for n in range(1, 9001)])
    await store.commit([end(f"t{n}") for n in range(1, 9001, 2)])
    rows = await _live(store)
    assert [row.seq for row in rows] == [*range(2, 9001, 2), *range(9001, 12_001)]
    assert not any(row.like.payload or row.like.description for row in rows)
    assert (rows[0].worker, rows[0].incarnation, rows[0].assigned_at) == ("ada", "1", 201.0)
    assert (rows[-1].worker, rows[-1].incarnation, rows[-1].assigned_at) == (None, None, None)
    assert await store.last_seq() == 12_000


async def test_the_retry_state_of_a_task_is_loaded(store: Store) -> None:
    await store.commit([add(1, "a"), assign("a")])
    await store.commit([replace(fail("a"), retry_at=777.0, failures=2, losses=1)])
    (row,) = await _live(store)
    assert (row.status, row.retry_at, row.failures, row.losses) == (READY, 777.0, 2, 1)
    assert (row.attempt, row.worker, row.need) == (1, None, None)
    await store.commit([assign("a", 2)])
    (row,) = await _live(store)
    assert (row.retry_at, row.attempt, row.worker) == (None, 2, "ada")


async def test_a_reopened_task_is_like_a_new_one_except_for_its_attempts(store: Store) -> None:
    harder = Need("task", 9, frozenset({"x"}), frozenset({"bob"}), aged=True)
    await store.commit([add(1, "a"), assign("a"), fail("a"), assign("a", 2)])
    await store.commit([end("a", 2, TaskStatus.FAILED, Outcome.FAILED, reason="no", output=1)])
    await store.commit([c.CompleteRun(RUN, 9.0), reopen("a", 2)])
    await store.commit([c.SetNeed((RUN, "a"), harder, "harder", 1.0), assign("a", 3)])
    await store.commit([end("a", 3, TaskStatus.FAILED, Outcome.FAILED), c.CompleteRun(RUN, 9.0)])
    await store.commit([reopen("a", 3)])
    row = await _row(store)
    assert (row.status, row.finished_at, row.output, row.error) == (READY, None, None, None)
    assert [(a.attempt, a.outcome, a.error) for a in row.attempts] == [
        (1, Outcome.FAILED, "no 1"),
        (2, Outcome.FAILED, "no"),
        (3, Outcome.FAILED, None),
    ]
    (live,) = await _live(store)
    assert (live.submitted_at, live.failures, live.losses, live.need) == (600.0, 0, 0, None)
    assert live.attempt == 3
    found = await store.run(RUN)
    assert found is not None
    assert (found.finished_at, found.counts) == (None, {READY: 1})


# --- runs and workers


async def test_runs_are_listed_in_order_of_submission_and_can_end_and_reopen(store: Store) -> None:
    await store.commit([add(1, "a", run="zoo"), add(2, "b", run="ape"), add(3, "c", run="zoo")])
    assert [(row.run, row.title, row.submitted_at) for row in await store.runs()] == [
        ("zoo", "ZOO", 101.0),
        ("ape", "APE", 102.0),
    ]
    await store.commit([c.CompleteRun("ape", 7.0), c.CompleteRun("nowhere", 7.0)])
    await store.commit([c.CompleteRun("ape", 8.0)])
    found = await store.run("ape")
    assert found is not None
    assert (found.finished_at, found.total, found.ended) == (7.0, 1, 0)
    await store.commit([add(4, "d", run="ape")])
    found = await store.run("ape")
    assert found is not None
    assert (found.finished_at, found.counts) == (None, {READY: 2})


async def test_a_returned_view_does_not_change_afterwards(store: Store) -> None:
    await store.commit([add(1, "a")])
    shown = await snapshot(store, [(RUN, "a")])
    again = await snapshot(store, [(RUN, "a")])
    await store.commit([assign("a"), add(2, "b")])
    assert shown == again


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 15, 16, 63, 64, 65, 127, 150])
async def test_a_commit_of_any_size_writes_every_attempt_or_is_refused_as_a_whole(
    store: Store, number: int
) -> None:
    """SQLite writes 64, 16 or 4 rows in one statement."""
    ids = [f"t{n}" for n in range(number)]
    await store.commit([add(n, id) for n, id in enumerate(ids, 1)])
    await store.commit([assign(id) for id in ids])
    await store.commit([end(ids[-1])])
    with pytest.raises(StoreConflict):
        await store.commit([end(id) for id in ids])
    await store.commit([end(id) for id in ids[:-1]])
    found = await store.run(RUN)
    assert found is not None
    assert found.counts == {SUCCEEDED: number}
