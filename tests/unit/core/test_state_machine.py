"""After any events in any order, the state keeps its invariants and agrees with an independent oracle."""

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
from tests.support.factories import budget, connect, disconnect, pick, profile, report, result
from tests.support.invariants import validate
from tests.support.oracle_lookahead import keys_held_by
from tests.support.oracle_tasks import TasksOracle
from tests.support.oracle_workers import WorkersOracle


class CoreMachine(RuleBasedStateMachine):
    """Collects events in `inbox`; a round passes all of them to the state, as the manager's loop does."""

    policy: Callable[[], Policy] = BestFit
    by_skill = True

    @initialize(
        chance=st.sampled_from([0.0, 0.5, 0.9]),
        expected=st.sampled_from([0, 0, 0, 3]),
        definitions=st.lists(TASKS, min_size=2, max_size=5),
    )
    def begin(self, chance: float, expected: int, definitions: list[dict[str, Any]]) -> None:
        self.chance, self.expected = chance, expected
        self.state = self._new_state()
        self.oracle = TasksOracle(WorkersOracle(by_skill=self.by_skill))
        self.inbox: list[e.Event | Submission | PendingRetry] = []
        self.requests = count()
        self.now, self.starts = 1000.0, 0
        self.profiles: list[WorkerProfile] = []  # of all incarnations so far
        self.assigned: list[c.Assign] = []  # all assignments so far
        self.recalled: list[tuple[WorkerProfile, AttemptRef]] = []  # all recalls so far
        self.submitted: list[Submission] = []
        self.inbox += [connect(name, skill, slots=2) for name, skill in FIRST_WORKERS]
        self.profiles += [profile(name, skill, slots=2) for name, skill in FIRST_WORKERS]
        self._submit("alpha", tuple(Task(id=f"t{n}", **one) for n, one in enumerate(definitions)))
        self.run_round(0.0)

    def _new_state(self) -> State:
        return State(self.policy(), chance=lambda: self.chance, expected_workers=self.expected)

    # --- submissions

    @rule(
        data=st.data(),
        run=st.sampled_from(RUNS),
        definitions=st.lists(TASKS, min_size=1, max_size=4),
    )
    def submit(self, data: st.DataObject, run: str, definitions: list[dict[str, Any]]) -> None:
        tasks: list[Task] = []
        for number, one in enumerate(definitions, sum(len(s.tasks) for s in self.submitted)):
            known_ids = sorted(
                {t.id for s in self.submitted for t in s.tasks if s.run_title == run}
            )
            candidates = known_ids + [t.id for t in tasks] + ["t0"] * (number > 0)
            dependencies = (
                data.draw(st.lists(st.sampled_from(candidates), max_size=2)) if candidates else ()
            )
            tasks.append(Task(id=f"t{number}", depends_on=tuple(dependencies), **one))
        self._submit(run, tuple(data.draw(st.permutations(tasks))))

    def _submit(self, run: str, tasks: tuple[Task, ...]) -> None:
        sent = Submission(submission_id="s", run=run.lower(), run_title=run, tasks=tasks)
        self.submitted.append(sent)
        self.inbox.append(sent)

    @precondition(lambda self: self.submitted)
    @rule(index=INDEXES)
    def submit_again(self, index: int) -> None:
        self.inbox.append(item_at(self.submitted, index))

    @precondition(lambda self: self.submitted)
    @rule(index=INDEXES)
    def submit_another_definition(self, index: int) -> None:
        old = item_at(self.submitted, index)
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
    @rule(index=INDEXES, task_indexes=st.lists(INDEXES, min_size=1, max_size=2))
    def cancel_tasks(self, index: int, task_indexes: list[int]) -> None:
        sent = item_at(self.submitted, index)
        ids = tuple(item_at(sent.tasks, one).id for one in task_indexes)
        self.inbox.append(e.CancelRequested(f"{next(self.requests)}", sent.run, ids, "no"))

    @precondition(lambda self: self.submitted)
    @rule(index=INDEXES, is_certain=st.sampled_from([False, False, True]))
    def cancel_run(self, index: int, is_certain: bool) -> None:
        if is_certain:
            run = item_at(self.submitted, index).run
            self.inbox.append(e.CancelRequested(f"{next(self.requests)}", run, None, "no"))

    @rule(indexes=st.lists(INDEXES, min_size=1, max_size=5))
    def retry_tasks(self, indexes: list[int]) -> None:
        rows = self.oracle.rows
        failed = [key for key, row in rows.items() if row.status in UNSUCCESSFUL]
        self.inbox.append(
            PendingRetry([item_at(failed or list(rows), one) for one in indexes if rows])
        )

    @rule(lost=st.sampled_from([False, False, True]))
    def lose_or_recover_heartbeats(self, lost: bool) -> None:
        self.inbox.append(e.HeartbeatsLost() if lost else e.HeartbeatsRecovered())

    @rule()
    def restart_manager(self) -> None:
        """Let another manager restore the state; it gets the events that the first one did not acknowledge."""
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
        worker = profile(name, incarnation=f"i{self.starts}", **more)
        self.profiles.append(worker)
        self.inbox.append(Connect(worker=worker, ready=ready))

    @precondition(lambda self: self.profiles)
    @rule(index=INDEXES, is_better=st.booleans())
    def connect_again(self, index: int, is_better: bool) -> None:
        """Send a late or repeated connect message, perhaps with more skill."""
        worker = item_at(self.profiles, index)
        if is_better:
            worker = worker.model_copy(update={"skill": 10})
        self.inbox.append(Connect(worker=worker))

    @precondition(lambda self: self.profiles)
    @rule(
        index=INDEXES,
        held=st.lists(INDEXES, max_size=3),
        draining=st.sampled_from([False, False, True]),
    )
    def send_heartbeat(self, index: int, held: list[int], draining: bool) -> None:
        """Send a heartbeat of any incarnation, even a departed one, that names any attempts."""
        refs = tuple(self._ref(i) for i in held if self.assigned)
        self.inbox.append(
            Heartbeat(worker=item_at(self.profiles, index), holds=refs, draining=draining)
        )

    @rule()
    def send_all_heartbeats(self) -> None:
        """Send a correct heartbeat of each connected worker."""
        for worker in self.oracle.workers.connected.values():
            refs = tuple(
                AttemptRef(run=run, id=id, attempt=self.oracle.rows[run, id].attempt)
                for run, id in keys_held_by(worker, self.oracle.rows)
            )
            self.inbox.append(Heartbeat(worker=worker, holds=refs))

    @precondition(lambda self: self.profiles)
    @rule(index=INDEXES)
    def disconnect_worker(self, index: int) -> None:
        self.inbox.append(disconnect(item_at(self.profiles, index), "bye"))

    # --- attempts

    @precondition(lambda self: self.assigned)
    @rule(
        indexes=st.lists(INDEXES, min_size=1, max_size=3),
        outcome=st.sampled_from(Outcome) | st.just(Outcome.FAILED),
        is_repeated=st.booleans(),
        errors=st.sampled_from([("OSError", "Exception"), ("ValueError",)]),
        seconds=st.sampled_from([None, 0.001, 0.04, 3.0]),
    )
    def send_results(
        self,
        indexes: list[int],
        outcome: Outcome,
        is_repeated: bool,
        errors: tuple[str, ...],
        seconds: float | None,
    ) -> None:
        """Send results of current attempts, if there are any, perhaps twice."""
        for one in (self._current_assignment(i) for i in indexes):
            sent = result(one, outcome, error_types=errors, **run_times(seconds))
            message = report(one.worker, *[sent] * (1 + is_repeated))
            self.inbox.append(message)

    @precondition(lambda self: self.assigned)
    @rule(
        index=INDEXES,
        worker_index=INDEXES,
        outcome=st.sampled_from(Outcome),
        attempt=st.integers(-1, 1),
        store=st.sampled_from(["", "lost"]),
    )
    def send_stale_results(
        self, index: int, worker_index: int, outcome: Outcome, attempt: int, store: str
    ) -> None:
        """Send results that are late, of another worker, attempt or store, or of an unknown task."""
        old = item_at(self.assigned, index)
        changed = replace(old, attempt=old.attempt + attempt)
        unknown = replace(old, key=(old.key[0], "nobody-knows"))
        worker = item_at(self.profiles, worker_index)
        message = report(worker, result(changed, outcome), result(unknown, outcome))
        self.inbox.append(message.model_copy(update={"store": store}))

    @precondition(lambda self: self.assigned)
    @rule(index=INDEXES, worker_index=INDEXES, is_correct=st.booleans())
    def send_progress(self, index: int, worker_index: int, is_correct: bool) -> None:
        one = self._current_assignment(index)
        worker = one.worker if is_correct else item_at(self.profiles, worker_index)
        item = ProgressItem(run=one.key[0], id=one.key[1], attempt=one.attempt, at=self.now)
        self.inbox.append(
            Progress(worker=worker.name, incarnation=worker.incarnation, items=(item, item))
        )

    @precondition(lambda self: self.assigned)
    @rule(index=INDEXES, others=st.lists(INDEXES, max_size=2))
    def return_assignments(self, index: int, others: list[int]) -> None:
        one = self._current_assignment(index)
        refs = tuple(self._ref(i) for i in [index, *others])
        self.inbox.append(e.AssignmentReturned(one.worker.name, one.worker.incarnation, refs))

    @precondition(lambda self: self.assigned)
    @rule(index=INDEXES)
    def fail_to_send_assignment(self, index: int) -> None:
        self.inbox.append(e.AssignmentUndeliverable(self._ref(index), "too large"))

    def _current_assignment(self, index: int) -> c.Assign:
        rows = self.oracle.rows
        current = [a for a in self.assigned if rows[a.key].holder == holder_of(a)]
        return item_at(current or self.assigned, index)

    def _ref(self, index: int) -> AttemptRef:
        one = self._current_assignment(index) if index % 2 else item_at(self.assigned, index)
        return AttemptRef(run=one.key[0], id=one.key[1], attempt=one.attempt)

    # --- rounds

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 4.0, 4.0]))
    def run_round(self, seconds: float) -> None:
        self.now += seconds
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
        """Check that each result either ends an attempt or is recorded as stale."""
        answered = [
            x.result for x in out if isinstance(x, c.RecordStaleResult | c.EndAttempt) and x.result
        ]
        sent = [
            r for e in events if not isinstance(e, tuple) and e.type == "result" for r in e.results
        ]
        assert list(map(id, answered)) == list(map(id, sent))

    def _check_workers_and_tasks(self) -> None:
        rows = self.oracle.rows
        live = {key: task.status for key, task in self.state.tasks.live.items()}
        expected_keys = self._expected_keys()
        expected = {key: row.status for key, row in rows.items() if key in expected_keys}
        assert live == expected, live.items() ^ expected.items()
        assert {
            n: w.profile for n, w in self.state.workers.workers.items()
        }.keys() == self.oracle.workers.connected.keys()
        for key in rows:
            assert (explain.reason(self.state, key, self.now) is None) == (key not in expected)
        deadline = self.state.next_deadline()
        assert deadline is None or deadline > self.now

    def _expected_keys(self) -> set[TaskKey]:
        """Return the keys of the tasks that the state must have in memory."""
        return {key for key, row in self.oracle.rows.items() if not row.status.is_terminal}

    @rule(outcomes=st.lists(st.sampled_from(COMMON_OUTCOMES), min_size=1, max_size=4))
    def do_some_work(self, outcomes: list[Outcome]) -> None:
        """Send heartbeats of all workers and results of some attempts."""
        self.send_all_heartbeats()
        self.run_round(1.0)
        current = [a for a in self.assigned if self.oracle.rows[a.key].holder == holder_of(a)]
        for one, outcome in zip(current, outcomes, strict=False):
            sent = result(one, outcome, error_types=("OSError",), **run_times(0.001))
            self.inbox.append(report(one.worker, sent))
        self.run_round(1.0)

    @rule(type=st.sampled_from(TYPES), count=st.integers(3, 9))
    def submit_many_easy_tasks(self, type: str, count: int) -> None:
        """Submit easy tasks: workers prefetch some if the duration of the type is known."""
        first = sum(len(s.tasks) for s in self.submitted)
        numbers = range(first, first + count)
        self._submit("alpha", tuple(Task(id=f"t{n}", difficulty=1, type=type) for n in numbers))

    @precondition(lambda self: self.recalled)
    @rule(indexes=st.lists(INDEXES, min_size=1, max_size=5), is_correct=st.booleans())
    def return_recalled_attempts(self, indexes: list[int], is_correct: bool) -> None:
        """Return recalled attempts, or report that they have succeeded meanwhile."""
        outcome = Outcome.RETURNED if is_correct else Outcome.SUCCEEDED
        for one in indexes:
            worker, attempt = item_at(self.recalled, one)
            run, id, number = attempt.run, attempt.id, attempt.attempt
            sent = result(c.Assign((run, id), "task", number, worker, 0.0), outcome)
            self.inbox.append(report(worker, sent))

    @rule(seconds=st.sampled_from([6.0, 16.0, 400.0]))
    def stall_manager(self, seconds: float) -> None:
        self.run_round(seconds)

    @rule(
        seconds=st.sampled_from([5, 16, 31, 70]),
        with_heartbeats=st.sampled_from([True, True, False]),
    )
    def let_time_pass(self, seconds: int, with_heartbeats: bool) -> None:
        for second in range(seconds):
            if with_heartbeats and second % 5 == 0:
                self.send_all_heartbeats()
            self.run_round(1.0)

    def teardown(self) -> None:
        """Connect three workers that can do every task, and check that every task ends."""
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
