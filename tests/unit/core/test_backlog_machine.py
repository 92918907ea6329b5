"""A backlog changes no decision: the state machine compares with a state that has all tasks in memory."""

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
from tests.support.backlog_driver import BacklogShell
from tests.support.core_strategies import RUNS
from tests.support.factories import budget, pick
from tests.unit.core.test_state_machine import CoreMachine

MOVED = {"evicted": 0, "refilled": 0}


class BacklogMachine(CoreMachine):
    @initialize(backlog_keep=st.integers(1, 3), backlog_from=st.sampled_from([0, 0, 6]))
    def begin_backlog(self, backlog_keep: int, backlog_from: int) -> None:
        self.backlog_keep, self.backlog_from = backlog_keep, backlog_from

    def _new_state(self) -> State:
        self.shell = getattr(self, "shell", None) or BacklogShell()
        self.backlog_keep = getattr(self, "backlog_keep", 1)
        self.backlog_from = getattr(self, "backlog_from", 0)
        return State(
            BestFit(),
            chance=lambda: self.chance,
            expected_workers=self.expected,
            backlog_keep=self.backlog_keep,
            backlog_from=self.backlog_from,
        )

    @rule(
        run=st.sampled_from(RUNS[:2]),
        priorities=st.lists(st.integers(1, 3), min_size=4, max_size=12),
        difficulty=st.sampled_from([1, 1, 5]),
        with_dependent=st.booleans(),
    )
    def submit_many_equal_tasks(
        self, run: str, priorities: list[int], difficulty: int, with_dependent: bool
    ) -> None:
        """Submit tasks with one need and perhaps a task that depends on the last of them."""
        first = sum(len(s.tasks) for s in self.submitted)
        tasks = [
            Task(id=f"t{n}", difficulty=difficulty, priority=priority, unroutable=Unroutable.WAIT)
            for n, priority in enumerate(priorities, first)
        ]
        if with_dependent:
            last = tasks[-1].id
            tasks.append(Task(id=f"t{first + len(priorities)}", difficulty=1, depends_on=(last,)))
        self._submit(run, tuple(tasks))

    def _handle(self, events: list[e.Event]) -> list[c.Command]:
        converted = [self.shell.with_backlog_rows(event) for event in events]
        out = self.state.handle(converted, self.now)
        self.shell.commit(out)
        return out + self.shell.refill(self.state, self.now)

    def _restore(self, rows: list[LiveRow]) -> list[c.Command]:
        for key in self.shell.backlog_keys:
            self.oracle.rows[key].ready_at = self.oracle.rows[key].opened_at
        self.state = self._new_state()
        out = self.shell.restore(self.state, list(self.oracle.workers.connected.values()), self.now)
        return out + self.shell.refill(self.state, self.now)

    def _expected_keys(self) -> set[TaskKey]:
        """Exclude tasks that are only in the backlog; of these the state knows only the number."""
        expected = super()._expected_keys()
        in_backlog = self.shell.backlog_keys - self.state.tasks.live.keys()
        for key in in_backlog:
            need = Need.from_task(self.oracle.rows[key].task)
            assert explain.reason_in_backlog(self.state, need)
            assert len(explain.verdicts_in_backlog(self.state, need)) == len(
                self.oracle.workers.connected
            )
        assert sum(self.state.tasks.open.values()) == len(expected)
        return expected - in_backlog

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "shell"):
            MOVED["evicted"] += self.shell.evicted
            MOVED["refilled"] += self.shell.refilled


class ComparingMachine(BacklogMachine):
    """Sends the same events to a state without a backlog.

    No worker is reserved: tasks in memory age at other times than tasks of the backlog.
    """

    def _new_state(self) -> State:
        self.state_in_memory = State(
            BestFit(), chance=lambda: self.chance, expected_workers=self.expected
        )
        return super()._new_state()

    def start_worker(self, name: str, more: dict[str, Any], ready: bool) -> None:
        super().start_worker(name, more | {"reserve": 0}, ready)

    def _handle(self, events: list[e.Event]) -> list[c.Command]:
        expected = self.state_in_memory.handle(events, self.now)
        return self._check_same(super()._handle(events), expected)

    def _restore(self, rows: list[LiveRow]) -> list[c.Command]:
        out = super()._restore(rows)
        workers = list(self.oracle.workers.connected.values())
        self.state_in_memory.begin_restore(
            workers, max((row.seq for row in self.oracle.rows.values()), default=0), self.now
        )
        self.state_in_memory.restore(rows)
        return self._check_same(out, self.state_in_memory.end_restore())

    def _check_same(self, out: list[c.Command], expected: list[c.Command]) -> list[c.Command]:
        assert pick(out, c.Assign) == pick(expected, c.Assign)
        for command_type in (
            c.SetStatus,
            c.EndAttempt,
            c.CompleteRun,
            c.SetNeed,
            c.Reopen,
            c.RecordStaleResult,
        ):
            assert sorted(map(repr, pick(out, command_type))) == sorted(
                map(repr, pick(expected, command_type))
            )
        return out


def test_with_a_backlog_each_task_is_in_one_place_and_ends_once() -> None:
    run_state_machine_as_test(BacklogMachine, settings=budget(100, stateful_step_count=40))


def test_a_backlog_changes_no_assignment_and_no_order() -> None:
    before = dict(MOVED)
    run_state_machine_as_test(ComparingMachine, settings=budget(150, stateful_step_count=40))
    assert MOVED["evicted"] > before["evicted"]
    assert MOVED["refilled"] > before["refilled"]
