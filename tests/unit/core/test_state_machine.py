"""Whatever happens, in whatever order: the state agrees with itself and with an independent bookkeeper."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from skillq.messages import (
    AttemptRef,
    Connect,
    Heartbeat,
    Outcome,
    Progress,
    ProgressItem,
    Submission,
    Task,
    WorkerProfile,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core import explain
from skillq_manager.core.model import TaskKey
from skillq_manager.core.rules.matching import Arrival, BestFit, Policy
from skillq_manager.core.state import State
from skillq_manager.store.base import LiveRow
from tests.factories import budget, connect, disconnect, pick, profile, report, result
from tests.support.core_strategies import (
    COMMON_OUTCOMES,
    FIRST_WORKERS,
    INDEXES,
    RUNS,
    TASKS,
    TYPES,
    UNSUCCESSFUL,
    WORKER_NAMES,
    WORKERS,
    PendingRetry,
    holder_of,
    item_at,
    run_times,
)
from tests.support.invariants import validate
from tests.support.oracle_lookahead import keys_held_by
from tests.support.oracle_tasks import TasksOracle
from tests.support.oracle_workers import WorkersOracle


class CoreMachine(RuleBasedStateMachine):
    """Events gather in `inbox`; a turn hands them to the state at once, as the manager's loop does."""

    policy: Callable[[], Policy] = BestFit
    by_skill = True

    @initialize(
        chance=st.sampled_from([0.0, 0.5, 0.9]),
        expected=st.sampled_from([0, 0, 0, 3]),
        work=st.lists(TASKS, min_size=2, max_size=5),
    )
    def begin(self, chance: float, expected: int, work: list[dict[str, Any]]) -> None:
        self.chance, self.expected = chance, expected
        self.state = self._new_state()
        self.oracle = TasksOracle(WorkersOracle(by_skill=self.by_skill))
        self.inbox: list[e.Event | Submission | PendingRetry] = []
        self.requests = count()
        self.now, self.starts = 1000.0, 0
        self.profiles: list[WorkerProfile] = []  # of all incarnations there ever were
        self.assigned: list[c.Assign] = []  # all there ever were
        self.recalled: list[tuple[WorkerProfile, AttemptRef]] = []  # likewise
        self.submitted: list[Submission] = []
        self.inbox += [connect(name, skill, slots=2) for name, skill in FIRST_WORKERS]
        self.profiles += [profile(name, skill, slots=2) for name, skill in FIRST_WORKERS]
        self._submit("alpha", tuple(Task(id=f"t{n}", **one) for n, one in enumerate(work)))
        self.run_round(0.0)

    def _new_state(self) -> State:
        return State(self.policy(), chance=lambda: self.chance, expected_workers=self.expected)

    # --- submissions

    @rule(
        data=st.data(), run=st.sampled_from(RUNS), several=st.lists(TASKS, min_size=1, max_size=4)
    )
    def submit(self, data: st.DataObject, run: str, several: list[dict[str, Any]]) -> None:
        tasks: list[Task] = []
        for number, one in enumerate(several, sum(len(s.tasks) for s in self.submitted)):
            before = sorted({t.id for s in self.submitted for t in s.tasks if s.run_title == run})
            candidates = before + [t.id for t in tasks] + ["t0"] * (number > 0)
            after = (
                data.draw(st.lists(st.sampled_from(candidates), max_size=2)) if candidates else ()
            )
            tasks.append(Task(id=f"t{number}", depends_on=tuple(after), **one))
        self._submit(run, tuple(data.draw(st.permutations(tasks))))

    def _submit(self, run: str, tasks: tuple[Task, ...]) -> None:
        made = Submission(submission_id="s", run=run.lower(), run_title=run, tasks=tasks)
        self.submitted.append(made)
        self.inbox.append(made)

    @precondition(lambda self: self.submitted)
    @rule(which=INDEXES)
    def submit_again(self, which: int) -> None:
        self.inbox.append(item_at(self.submitted, which))

    @precondition(lambda self: self.submitted)
    @rule(which=INDEXES)
    def submit_another_definition(self, which: int) -> None:
        old = item_at(self.submitted, which)
        changed = tuple(t.model_copy(update={"description": "another"}) for t in old.tasks)
        self.inbox.append(old.model_copy(update={"tasks": changed}))

    @rule(run=st.sampled_from(RUNS))
    def submit_with_an_unknown_dependency(self, run: str) -> None:
        lost = Task(id="lost", difficulty=1, depends_on=("nowhere",))
        self.inbox.append(
            Submission(submission_id="s", run=run.lower(), run_title=run, tasks=(lost,))
        )

    # --- operators

    @precondition(lambda self: self.submitted)
    @rule(which=INDEXES, some=st.lists(INDEXES, min_size=1, max_size=2))
    def cancel_tasks(self, which: int, some: list[int]) -> None:
        made = item_at(self.submitted, which)
        ids = tuple(item_at(made.tasks, one).id for one in some)
        self.inbox.append(e.CancelRequested(f"{next(self.requests)}", made.run, ids, "no"))

    @precondition(lambda self: self.submitted)
    @rule(which=INDEXES, sure=st.sampled_from([False, False, True]))
    def cancel_run(self, which: int, sure: bool) -> None:
        if sure:
            run = item_at(self.submitted, which).run
            self.inbox.append(e.CancelRequested(f"{next(self.requests)}", run, None, "no"))

    @rule(which=st.lists(INDEXES, min_size=1, max_size=5))
    def retry_tasks(self, which: list[int]) -> None:
        rows = self.oracle.rows
        failed = [key for key, row in rows.items() if row.status in UNSUCCESSFUL]
        self.inbox.append(
            PendingRetry([item_at(failed or list(rows), one) for one in which if rows])
        )

    @rule(blind=st.sampled_from([False, False, True]))
    def lose_or_recover_heartbeats(self, blind: bool) -> None:
        self.inbox.append(e.HeartbeatsLost() if blind else e.HeartbeatsRecovered())

    @rule()
    def restart_manager(self) -> None:
        """Its events go unacknowledged to the next, which knows what was stored."""
        rows = self.oracle.restart_manager(self.now)
        self._check_round(self._restore(rows))

    def _restore(self, rows: list[LiveRow]) -> list[c.Command]:
        self.state = self._new_state()
        last = max((row.seq for row in self.oracle.rows.values()), default=0)
        self.state.begin_restore(list(self.oracle.workers.connected.values()), last, self.now)
        for start in range(0, len(rows), 2):
            self.state.restore(rows[start : start + 2])
        return self.state.end_restore()

    # --- workers

    @rule(name=WORKER_NAMES, more=WORKERS, ready=st.sampled_from([True, True, False]))
    def start_worker(self, name: str, more: dict[str, Any], ready: bool) -> None:
        self.starts += 1
        who = profile(name, incarnation=f"i{self.starts}", **more)
        self.profiles.append(who)
        self.inbox.append(Connect(worker=who, ready=ready))

    @precondition(lambda self: self.profiles)
    @rule(which=INDEXES, better=st.booleans())
    def connect_again(self, which: int, better: bool) -> None:
        """A late or doubled message; or a worker that has learned something since."""
        who = item_at(self.profiles, which)
        if better:
            who = who.model_copy(update={"skill": 10})
        self.inbox.append(Connect(worker=who))

    @precondition(lambda self: self.profiles)
    @rule(
        which=INDEXES,
        held=st.lists(INDEXES, max_size=3),
        draining=st.sampled_from([False, False, True]),
    )
    def send_heartbeat(self, which: int, held: list[int], draining: bool) -> None:
        """Of anyone, a ghost too, with anything in its hands."""
        refs = tuple(self._ref(i) for i in held if self.assigned)
        self.inbox.append(
            Heartbeat(worker=item_at(self.profiles, which), holds=refs, draining=draining)
        )

    @rule()
    def send_all_heartbeats(self) -> None:
        """Most of the time, all is well."""
        for who in self.oracle.workers.connected.values():
            refs = tuple(
                AttemptRef(run=run, id=id, attempt=self.oracle.rows[run, id].attempt)
                for run, id in keys_held_by(who, self.oracle.rows)
            )
            self.inbox.append(Heartbeat(worker=who, holds=refs))

    @precondition(lambda self: self.profiles)
    @rule(which=INDEXES)
    def disconnect_worker(self, which: int) -> None:
        self.inbox.append(disconnect(item_at(self.profiles, which), "bye"))

    # --- attempts

    @precondition(lambda self: self.assigned)
    @rule(
        which=st.lists(INDEXES, min_size=1, max_size=3),
        outcome=st.sampled_from(Outcome) | st.just(Outcome.FAILED),
        double=st.booleans(),
        errors=st.sampled_from([("OSError", "Exception"), ("ValueError",)]),
        seconds=st.sampled_from([None, 0.001, 0.04, 3.0]),
    )
    def send_results(
        self,
        which: list[int],
        outcome: Outcome,
        double: bool,
        errors: tuple[str, ...],
        seconds: float | None,
    ) -> None:
        """Results of attempts that are current, as far as there are any; twice, perhaps."""
        for one in (self._current_assignment(i) for i in which):
            made = result(one, outcome, error_types=errors, **run_times(seconds))
            said = report(one.worker, *[made] * (1 + double))
            self.inbox.append(said)

    @precondition(lambda self: self.assigned)
    @rule(
        which=INDEXES,
        whose=INDEXES,
        outcome=st.sampled_from(Outcome),
        attempt=st.integers(-1, 1),
        store=st.sampled_from(["", "lost"]),
    )
    def send_stale_results(
        self, which: int, whose: int, outcome: Outcome, attempt: int, store: str
    ) -> None:
        """Late, foreign, of an attempt that never was, of a lost store, of a task that nobody knows."""
        old = item_at(self.assigned, which)
        changed = replace(old, attempt=old.attempt + attempt)
        unknown = replace(old, key=(old.key[0], "nobody-knows"))
        who = item_at(self.profiles, whose)
        said = report(who, result(changed, outcome), result(unknown, outcome))
        self.inbox.append(said.model_copy(update={"store": store}))

    @precondition(lambda self: self.assigned)
    @rule(which=INDEXES, whose=INDEXES, right=st.booleans())
    def send_progress(self, which: int, whose: int, right: bool) -> None:
        one = self._current_assignment(which)
        who = one.worker if right else item_at(self.profiles, whose)
        item = ProgressItem(run=one.key[0], id=one.key[1], attempt=one.attempt, at=self.now)
        self.inbox.append(
            Progress(worker=who.name, incarnation=who.incarnation, items=(item, item))
        )

    @precondition(lambda self: self.assigned)
    @rule(which=INDEXES, others=st.lists(INDEXES, max_size=2))
    def return_assignments(self, which: int, others: list[int]) -> None:
        one = self._current_assignment(which)
        refs = tuple(self._ref(i) for i in [which, *others])
        self.inbox.append(e.AssignmentReturned(one.worker.name, one.worker.incarnation, refs))

    @precondition(lambda self: self.assigned)
    @rule(which=INDEXES)
    def fail_to_send_assignment(self, which: int) -> None:
        self.inbox.append(e.AssignmentUndeliverable(self._ref(which), "too large"))

    def _current_assignment(self, which: int) -> c.Assign:
        rows = self.oracle.rows
        current = [a for a in self.assigned if rows[a.key].holder == holder_of(a)]
        return item_at(current or self.assigned, which)

    def _ref(self, which: int) -> AttemptRef:
        one = self._current_assignment(which) if which % 2 else item_at(self.assigned, which)
        return AttemptRef(run=one.key[0], id=one.key[1], attempt=one.attempt)

    # --- turns

    @rule(later=st.sampled_from([0.0, 0.1, 1.0, 4.0, 4.0]))
    def run_round(self, later: float) -> None:
        self.now += later
        events = [self._as_event(e) for e in self.inbox]
        self.inbox = []
        expected = self.oracle.begin_round(events, self.now)
        out = self._handle(events)
        answers = [(a.accepted, a.known, a.reason is None) for a in pick(out, c.AnswerSubmission)]
        assert answers == expected
        self._check_results(events, out)
        self._check_round(out)

    def _handle(self, events: list[e.Event]) -> list[c.Command]:
        return self.state.handle(events, self.now)

    def _as_event(self, event: e.Event | Submission | PendingRetry) -> e.Event:
        if isinstance(event, Submission):
            return self.oracle.submission_event(event)
        if isinstance(event, PendingRetry):
            return self.oracle.retry_event(f"{next(self.requests)}", event.keys)
        return event

    def _check_round(self, out: list[c.Command]) -> None:
        validate(self.state)
        self.oracle.apply(out)
        self.oracle.check_runs(out)
        self.oracle.check_holders()
        self.oracle.check_deadlines()
        self._check_workers_and_tasks()
        self.assigned += pick(out, c.Assign)
        self.recalled += [
            (r.worker, ref) for r in pick(out, c.RecallAttempts) for ref in r.attempts
        ]

    def _check_results(self, events: list[e.Event], out: list[c.Command]) -> None:
        """Every result is either counted or called stale."""
        answered = [
            x.result for x in out if isinstance(x, c.RecordStaleResult | c.EndAttempt) and x.result
        ]
        said = [
            r for e in events if not isinstance(e, tuple) and e.type == "result" for r in e.results
        ]
        assert list(map(id, answered)) == list(map(id, said))

    def _check_workers_and_tasks(self) -> None:
        rows = self.oracle.rows
        live = {key: task.status for key, task in self.state.tasks.live.items()}
        here = self._expected_keys()
        there = {key: row.status for key, row in rows.items() if key in here}
        assert live == there, live.items() ^ there.items()
        assert {
            n: w.profile for n, w in self.state.workers.workers.items()
        }.keys() == self.oracle.workers.connected.keys()
        for key in rows:
            assert (explain.reason(self.state, key, self.now) is None) == (key not in there)
        deadline = self.state.next_deadline()
        assert deadline is None or deadline > self.now

    def _expected_keys(self) -> set[TaskKey]:
        """What the state has to know of."""
        return {key for key, row in self.oracle.rows.items() if not row.status.is_terminal}

    @rule(outcomes=st.lists(st.sampled_from(COMMON_OUTCOMES), min_size=1, max_size=4))
    def do_some_work(self, outcomes: list[Outcome]) -> None:
        """As it mostly is: all are heard of, and some have ended what they had."""
        self.send_all_heartbeats()
        self.run_round(1.0)
        current = [a for a in self.assigned if self.oracle.rows[a.key].holder == holder_of(a)]
        for one, outcome in zip(current, outcomes, strict=False):
            made = result(one, outcome, error_types=("OSError",), **run_times(0.001))
            self.inbox.append(report(one.worker, made))
        self.run_round(1.0)

    @rule(type=st.sampled_from(TYPES), count=st.integers(3, 9))
    def submit_many_easy_tasks(self, type: str, count: int) -> None:
        """Easy work: some of it has to wait at workers, where its type is known."""
        first = sum(len(s.tasks) for s in self.submitted)
        numbers = range(first, first + count)
        self._submit("alpha", tuple(Task(id=f"t{n}", difficulty=1, type=type) for n in numbers))

    @precondition(lambda self: self.recalled)
    @rule(which=st.lists(INDEXES, min_size=1, max_size=5), right=st.booleans())
    def return_recalled_attempts(self, which: list[int], right: bool) -> None:
        """What was recalled, as far as it has not begun; or it is done meanwhile."""
        outcome = Outcome.RETURNED if right else Outcome.SUCCEEDED
        for one in which:
            worker, attempt = item_at(self.recalled, one)
            run, id, number = attempt.run, attempt.id, attempt.attempt
            made = result(c.Assign((run, id), "task", number, worker, 0.0), outcome)
            self.inbox.append(report(worker, made))

    @rule(later=st.sampled_from([6.0, 16.0, 400.0]))
    def stall_manager(self, later: float) -> None:
        self.run_round(later)

    @rule(seconds=st.sampled_from([5, 16, 31, 70]), beating=st.sampled_from([True, True, False]))
    def let_time_pass(self, seconds: int, beating: bool) -> None:
        for second in range(seconds):
            if beating and second % 5 == 0:
                self.send_all_heartbeats()
            self.run_round(1.0)

    def teardown(self) -> None:
        """Three workers that can do anything come: then everything ends."""
        if not hasattr(self, "state"):
            return
        able = [
            connect(name, 10, incarnation="last", specialties=TYPES, slots=50)
            for name in ("xia", "yan", "zoe")
        ]
        self.inbox.append(e.HeartbeatsRecovered())
        for _ in range(500):
            self.inbox += able
            self.run_round(301.0)
            for one in self.assigned:
                if self.oracle.rows[one.key].holder == holder_of(one):
                    self.inbox.append(report(one.worker, result(one)))
            if self.state.is_idle and not self.inbox:
                break
        assert self.state.is_idle
        assert self.oracle.ended == {
            key: 1 + self.oracle.reopened[key] for key in self.oracle.accepted
        }


class ArrivalMachine(CoreMachine):
    policy = Arrival
    by_skill = False


@pytest.mark.parametrize("machine", [CoreMachine, ArrivalMachine])
def test_after_any_events_each_task_is_in_one_place_and_ends_once(
    machine: type[CoreMachine],
) -> None:
    run_state_machine_as_test(machine, settings=budget(150, stateful_step_count=40))
