"""Tasks of the backlog are not loaded, are read in order, and leave the backlog when they change."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.events import LiveTask
from skillq_manager.core.model import FIRST, Need
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.store.base import Store, StoreConflict
from tests.contract.store_history import RUN, add, assign, end, fail, reopen, set_status, start
from tests.support.factories import connect, disconnect, pick, results, submission, task

EASY = Need("task", 1, frozenset())
HARD = Need("task", 9, frozenset({"gpu", "law"}))
CANCELLED, READY = TaskStatus.CANCELLED, TaskStatus.READY


def add_to_backlog(seq: int, id: str, need: Need = EASY, **more: Any) -> c.AddTask:
    fields: dict[str, Any] = {
        "difficulty": need.difficulty,
        "requires": tuple(need.requires),
    } | more
    return replace(add(seq, id, **fields), backlog=need)


def ids(rows: Sequence[LiveTask]) -> list[str]:
    return [row.id for row in rows]


async def loaded_ids(store: Store, *, shelved: bool) -> list[str]:
    return [
        id for page in [p async for p in store.load(include_backlog=shelved)] for id in ids(page)
    ]


async def backlog_ids(
    store: Store, need: Need, start: tuple[int, int] = FIRST, limit: int = 9
) -> list[str]:
    return ids((await store.backlog_page(c.RefillRequest(need, start, limit))).rows)


async def test_backlog_tasks_are_not_loaded_unless_all_tasks_are(store: Store) -> None:
    await store.commit([add(1, "a"), add_to_backlog(2, "b"), add(3, "c", TaskStatus.BLOCKED)])
    assert await loaded_ids(store, shelved=False) == ["a", "c"]
    assert await loaded_ids(store, shelved=True) == ["a", "b", "c"]


async def test_the_backlog_summary_has_the_needs_and_the_number_of_ready_tasks(
    store: Store,
) -> None:
    assert await store.backlog_summary() == e.BacklogSummary((), {})
    await store.commit(
        [
            add(1, "a"),
            add_to_backlog(2, "b"),
            add_to_backlog(3, "c", HARD),
            add_to_backlog(4, "d", HARD),
        ]
    )
    found = await store.backlog_summary()
    assert set(found.needs) == {EASY, HARD}
    assert found.ready == {RUN: 4}
    await store.commit([assign("b"), assign("a")])
    assert await store.backlog_summary() == e.BacklogSummary((HARD,), {RUN: 2})


async def test_the_backlog_is_read_by_priority_then_in_order_of_submission(store: Store) -> None:
    tasks = [add_to_backlog(n, f"t{n}", priority=1 + n % 3) for n in range(1, 8)]
    await store.commit([*tasks, add_to_backlog(8, "x", HARD)])
    assert await backlog_ids(store, EASY) == ["t2", "t5", "t1", "t4", "t7", "t3", "t6"]
    assert await backlog_ids(store, EASY, (-3, 5)) == ["t5", "t1", "t4", "t7", "t3", "t6"]
    assert await backlog_ids(store, EASY, (-2, 5), 2) == ["t7", "t3"]
    assert await backlog_ids(store, HARD) == ["x"]


async def test_a_backlog_page_says_whether_there_may_be_more(store: Store) -> None:
    await store.commit([add_to_backlog(1, "a"), add_to_backlog(2, "b")])
    for limit, more in ((1, True), (2, True), (3, False)):
        found = await store.backlog_page(c.RefillRequest(EASY, FIRST, limit))
        assert (len(found.rows), found.more) == (min(limit, 2), more)
        assert found.need == EASY


async def test_a_row_of_the_backlog_equals_the_loaded_row(store: Store) -> None:
    await store.commit([add_to_backlog(1, "a", HARD, payload={"n": 1}, priority=7)])
    (row,) = (await store.backlog_page(c.RefillRequest(HARD, FIRST, 9))).rows
    assert [row] == [row async for page in store.load() for row in page]
    assert await store.backlog_tasks(RUN, None) == [row]
    assert (row.status, row.attempt, row.like.priority) == (READY, 0, 7)


async def test_a_ready_task_can_be_moved_to_the_backlog_later(store: Store) -> None:
    await store.commit([add(1, "a", priority=2), add(2, "b"), c.MoveToBacklog((RUN, "a"), EASY, 2)])
    await store.commit([c.MoveToBacklog((RUN, "b"), EASY, 1)])
    assert await backlog_ids(store, EASY) == ["a", "b"]
    assert await loaded_ids(store, shelved=False) == []


@pytest.mark.parametrize("before", [assign("a"), set_status("a", CANCELLED)])
async def test_a_task_that_is_not_ready_cannot_be_moved_to_the_backlog(
    store: Store, before: c.Command
) -> None:
    await store.commit([add(1, "a"), before])
    with pytest.raises(StoreConflict):
        await store.commit([c.MoveToBacklog((RUN, "a"), EASY, 1)])


async def test_an_assigned_task_leaves_the_backlog_and_is_loaded(store: Store) -> None:
    await store.commit([add_to_backlog(1, "a"), add(2, "b"), assign("a")])
    assert await backlog_ids(store, EASY) == []
    assert await loaded_ids(store, shelved=False) == ["b", "a"]
    await store.commit([start("a")])
    assert await loaded_ids(store, shelved=False) == ["b", "a"]
    await store.commit([end("a")])
    assert await loaded_ids(store, shelved=False) == ["b"]


async def test_a_retried_task_does_not_return_to_the_backlog(store: Store) -> None:
    await store.commit([add_to_backlog(1, "a"), assign("a"), fail("a")])
    assert await backlog_ids(store, EASY) == []
    assert await loaded_ids(store, shelved=False) == ["a"]


async def test_a_reopened_task_does_not_return_to_the_backlog(store: Store) -> None:
    tasks = [add_to_backlog(1, "a"), add_to_backlog(2, "b")]
    given_up = end("b", 1, TaskStatus.FAILED, Outcome.FAILED)
    await store.commit([*tasks, set_status("a", CANCELLED), assign("b"), given_up])
    await store.commit([reopen("a", 0), replace(reopen("b", 1), status=TaskStatus.BLOCKED)])
    assert await store.backlog_summary() == e.BacklogSummary((), {RUN: 1})
    assert await loaded_ids(store, shelved=False) == ["a", "b"]


async def test_a_task_whose_need_changes_leaves_the_backlog(store: Store) -> None:
    await store.commit([add_to_backlog(1, "a"), c.SetNeed((RUN, "a"), HARD, "relaxed", 5.0)])
    assert await backlog_ids(store, EASY) == []
    assert await loaded_ids(store, shelved=False) == ["a"]


async def test_backlog_tasks_are_found_by_run_and_by_id(store: Store) -> None:
    many = [add_to_backlog(n, f"t{n}") for n in range(1, 4)]
    await store.commit(
        [*many, add(4, "x"), add_to_backlog(5, "t1", HARD, run="other"), assign("t2")]
    )
    assert ids(await store.backlog_tasks(RUN, None)) == ["t1", "t3"]
    assert sorted(ids(await store.backlog_tasks(RUN, ["t3", "x", "nowhere", "t2", "t1"]))) == [
        "t1",
        "t3",
    ]
    names = [f"n{n}" for n in range(40_000)]
    assert ids(await store.backlog_tasks(RUN, [*names, "t3"])) == ["t3"]
    assert await store.backlog_tasks("nowhere", None) == []


async def test_the_backlog_of_a_run_is_read_page_by_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_manager.store.base.BACKLOG_PAGE", 2)
    await store.commit([add_to_backlog(n, f"t{n}") for n in range(1, 6)])
    assert ids(await store.backlog_tasks(RUN, None)) == ["t1", "t2"]
    assert len(await store.backlog_tasks(RUN, [f"t{n}" for n in range(1, 6)])) == 5


async def _decide(store: Store, state: State, *events: Any) -> list[c.Command]:
    """Handle events and commit the decisions, as the manager does."""
    out = state.handle(events, 1000.0)
    await store.commit(out)
    while state.refills:
        more = state.handle([await store.backlog_page(wanted) for wanted in state.refills], 1000.0)
        await store.commit(more)
        out += more
    return out


async def _next_state(store: Store) -> State:
    state = State(BestFit(), chance=lambda: 0.5, backlog_keep=2)
    state.begin_restore([], await store.last_seq(), 1000.0)
    async for rows in store.load(include_backlog=False):
        state.restore(rows)
    known = await store.known_tasks(state.unresolved_dependencies())
    await store.commit(state.end_restore(await store.backlog_summary(), known))
    return state


async def test_successive_managers_assign_the_backlog_in_order(store: Store) -> None:
    state = await _next_state(store)
    tasks = [task(f"t{n:02}", priority=1 + n % 3) for n in range(30)]
    after = task("after", depends_on=("t29",))  # in the backlog when the next manager starts
    await _decide(store, state, e.SubmissionReceived(submission(*tasks, after), {}, None))
    order: list[str] = []
    for _ in range(11):
        state = await _next_state(store)
        assert sum(state.tasks.open.values()) == 31 - len(order)
        assert len(state.tasks.live) <= 5
        assigned = pick(await _decide(store, state, connect("ada")), c.Assign)
        for _ in range(3):
            order += [one.key[1] for one in assigned]
            out = await _decide(store, state, *(results(one) for one in assigned))
            assigned = pick(out, c.Assign)
        # The worker leaves with its new tasks.
        await _decide(store, state, disconnect(state.workers.workers["ada"].profile))
    assert order == [t.id for t in sorted(tasks, key=lambda t: (-t.priority, t.id))] + ["after"]
    run = await store.run("default")
    assert run is not None
    assert run.counts == {TaskStatus.SUCCEEDED: 31}
    assert run.finished_at is not None
