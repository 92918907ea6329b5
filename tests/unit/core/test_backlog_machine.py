"""A shelf changes nothing of what is decided: the state machine runs on, beside a state that has all in memory."""

from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from skillq.messages import Task, Unroutable
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core import explain
from skillq_manager.core.model import Need, TaskKey
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.store.base import LiveRow
from tests.factories import budget, pick
from tests.support.backlog_driver import Keeper
from tests.support.core_strategies import RUNS
from tests.unit.core.test_state_machine import Machine

SPILLED = {"put away": 0, "fetched": 0}


class ShelfMachine(Machine):
    @initialize(head=st.integers(1, 3), crowd=st.sampled_from([0, 0, 6]))
    def begin_shelf(self, head: int, crowd: int) -> None:
        self.head, self.crowd = head, crowd

    def _new_state(self) -> State:
        self.keeper = getattr(self, "keeper", None) or Keeper()
        self.head = getattr(self, "head", 1)
        self.crowd = getattr(self, "crowd", 0)
        return State(
            BestFit(),
            chance=lambda: self.chance,
            expected_workers=self.expected,
            backlog_keep=self.head,
            backlog_from=self.crowd,
        )

    @rule(
        run=st.sampled_from(RUNS[:2]),
        several=st.lists(st.integers(1, 3), min_size=4, max_size=12),
        difficulty=st.sampled_from([1, 1, 5]),
        after=st.booleans(),
    )
    def submit_many_alike(self, run: str, several: list[int], difficulty: int, after: bool) -> None:
        """And one that depends on the last of them."""
        first = sum(len(s.tasks) for s in self.submitted)
        tasks = [
            Task(id=f"t{n}", difficulty=difficulty, priority=priority, unroutable=Unroutable.WAIT)
            for n, priority in enumerate(several, first)
        ]
        if after:
            last = tasks[-1].id
            tasks.append(Task(id=f"t{first + len(several)}", difficulty=1, depends_on=(last,)))
        self._submit(run, tuple(tasks))

    def _handle(self, events: list[e.Event]) -> list[c.Command]:
        given = [self.keeper.ready(event) for event in events]
        out = self.state.handle(given, self.now)
        self.keeper.commit(out)
        return out + self.keeper.refill(self.state, self.now)

    def _take_over(self, rows: list[LiveRow]) -> list[c.Command]:
        for key in self.keeper.on_shelf:
            self.model.rows[key].ready_at = self.model.rows[key].opened_at
        self.state = self._new_state()
        out = self.keeper.restore(self.state, list(self.model.crew.here.values()), self.now)
        return out + self.keeper.refill(self.state, self.now)

    def _here(self) -> set[TaskKey]:
        """A shelf's first tasks may be here, too; of the others the state knows how many there are."""
        there = super()._here()
        shelved = self.keeper.on_shelf - self.state.tasks.live.keys()
        for key in shelved:
            need = Need.from_task(self.model.rows[key].task)
            assert explain.reason_in_backlog(self.state, need)
            assert len(explain.verdicts_in_backlog(self.state, need)) == len(self.model.crew.here)
        assert sum(self.state.tasks.open.values()) == len(there)
        return there - shelved

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "keeper"):
            SPILLED["put away"] += self.keeper.put_away
            SPILLED["fetched"] += self.keeper.fetched


class TwinMachine(ShelfMachine):
    """The same is said to a state without a shelf; of reserved workers each knows what it has in memory."""

    def _new_state(self) -> State:
        self.twin = State(BestFit(), chance=lambda: self.chance, expected_workers=self.expected)
        return super()._new_state()

    def start_worker(self, name: str, more: dict[str, Any], ready: bool) -> None:
        super().start_worker(name, more | {"reserve": 0}, ready)

    def _handle(self, events: list[e.Event]) -> list[c.Command]:
        expected = self.twin.handle(events, self.now)
        return self._same(super()._handle(events), expected)

    def _take_over(self, rows: list[LiveRow]) -> list[c.Command]:
        out = super()._take_over(rows)
        workers = list(self.model.crew.here.values())
        self.twin.begin_restore(
            workers, max((row.seq for row in self.model.rows.values()), default=0), self.now
        )
        self.twin.restore(rows)
        return self._same(out, self.twin.end_restore())

    def _same(self, out: list[c.Command], expected: list[c.Command]) -> list[c.Command]:
        assert pick(out, c.Assign) == pick(expected, c.Assign)
        for kind in (
            c.SetStatus,
            c.EndAttempt,
            c.CompleteRun,
            c.SetNeed,
            c.Reopen,
            c.RecordStaleResult,
        ):
            assert sorted(map(repr, pick(out, kind))) == sorted(map(repr, pick(expected, kind)))
        return out


def test_with_a_backlog_each_task_is_in_one_place_and_ends_once() -> None:
    run_state_machine_as_test(ShelfMachine, settings=budget(100, stateful_step_count=40))


def test_a_backlog_changes_no_assignment_and_no_order() -> None:
    before = dict(SPILLED)
    run_state_machine_as_test(TwinMachine, settings=budget(150, stateful_step_count=40))
    assert SPILLED["put away"] > before["put away"]
    assert SPILLED["fetched"] > before["fetched"]
