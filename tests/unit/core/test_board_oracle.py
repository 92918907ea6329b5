"""The board chooses the same matches as an oracle that sorts all tasks and all workers."""

import random
from collections import Counter
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from skillq_manager.core.dispatch import board
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import Lookahead, LookaheadPolicy
from skillq_manager.core.model import Need, Skills, TaskEntry, WorkerEntry
from skillq_manager.core.rules.matching import Arrival, BestFit, Policy
from tests.support.factories import budget, need, profile, task_entry, worker_entry

TYPES = ("task", "ocr", "gpu", "lab")
NAMES = ("w1", "w2", "ada")
INDEXES = st.integers(0, 10_000)
SPECIALTIES = st.lists(st.sampled_from(TYPES), max_size=2)


class BoardOracle:
    """Finds a match slowly: all ready tasks by rank, for each all free workers by fit and rank, then prefetching."""

    def __init__(self, policy: Policy, lookahead: Lookahead) -> None:
        self.policy = policy
        self.lookahead = lookahead
        self.tasks: list[TaskEntry] = []
        self.workers: list[WorkerEntry] = []

    def next_match(self) -> tuple[TaskEntry, WorkerEntry] | None:
        for task in sorted(self.tasks, key=self.policy.task_rank):
            able = [w for w in self.able_workers(task.need) if w.is_free]
            if able:
                return task, min(able, key=lambda w: self._worker_rank(task, w))
        return self._next_prefetch() if self.policy.looks_ahead else None

    def _next_prefetch(self) -> tuple[TaskEntry, WorkerEntry] | None:
        """Return the next prefetched match; a worker that could do an earlier task gets no later one."""
        with_room = [
            w for w in self.workers if not w.is_free and self.lookahead.has_prefetch_room(w)
        ]
        for task in sorted(self.tasks, key=self.policy.task_rank):
            able = [w for w in self.able_workers(task.need) if w in with_room]
            if able and self.lookahead.may_prefetch(task):
                return task, min(able, key=lambda w: self._worker_rank(task, w))
            with_room = [w for w in with_room if w not in able]
        return None

    def able_workers(self, need: Need) -> list[WorkerEntry]:
        allowed = (w for w in self.workers if w.name not in need.excluded)
        return [w for w in allowed if self.policy.can(w.skills, need)]

    def _worker_rank(self, task: TaskEntry, worker: WorkerEntry) -> tuple[object, ...]:
        fit = self.policy.fit(worker.skills, task.need)
        return fit, self.policy.worker_rank(worker), worker.joined


class BoardMachine(RuleBasedStateMachine):
    """Does the same to the board and to the oracle, and compares their matches."""

    policy: Callable[[], Policy] = BestFit
    queues_before_cleanup = 3

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(board, "_QUEUES_BEFORE_CLEANUP", self.queues_before_cleanup)
        self.lookahead = Lookahead(LookaheadPolicy(max_prefetched=3))
        for known in TYPES[:2]:
            self.lookahead.record_duration(known, 0.0, 0.01)
        self.board = Board(self.policy(), self.lookahead)
        self.oracle = BoardOracle(self.policy(), self.lookahead)
        self.all_tasks: list[TaskEntry] = []
        self.assigned: list[tuple[TaskEntry, WorkerEntry]] = []
        self.workers_added = 0
        self.now = 0.0

    # --- tasks

    @rule(
        difficulty=st.integers(1, 10),
        type=st.sampled_from(TYPES),
        requires=SPECIALTIES,
        priority=st.integers(1, 3),
        excluded=st.just([]) | st.lists(st.sampled_from(NAMES), max_size=3),
        aged=st.sampled_from([False, False, True]),
        pause=st.sampled_from([0.0, 1.0, 4.0]),
        losses=st.sampled_from([0, 0, 0, 1]),
    )
    def add_new_task(
        self,
        *,
        difficulty: int,
        type: str,
        requires: list[str],
        priority: int,
        excluded: list[str],
        aged: bool,
        pause: float,
        losses: int,
    ) -> None:
        self.now += pause
        task_need = need(type, difficulty, requires, excluded=excluded, aged=aged)
        task = task_entry(len(self.all_tasks), task_need, priority, ready_at=self.now)
        task.losses = losses
        self.all_tasks.append(task)
        self._add_task(task)

    def _add_task(self, task: TaskEntry) -> None:
        self.board.add_task(task)
        self.oracle.tasks.append(task)

    @precondition(lambda self: self.oracle.tasks)
    @rule(index=INDEXES)
    def discard_task(self, index: int) -> None:
        task = self.oracle.tasks.pop(index % len(self.oracle.tasks))
        self.board.discard_task(task)
        self.board.discard_task(task)  # twice is once

    @precondition(lambda self: self.all_tasks)
    @rule(index=INDEXES)
    def discard_and_add_task(self, index: int) -> None:
        """Remove a task and add it again, as a cancel and a retry do, even if it was not on the board."""
        task = self.all_tasks[index % len(self.all_tasks)]
        if all(task is not held for held, _ in self.assigned):
            self.oracle.tasks = [other for other in self.oracle.tasks if other is not task]
            self.board.discard_task(task)
            self._add_task(task)

    @precondition(lambda self: self.oracle.tasks)
    @rule(index=INDEXES, excluded=st.lists(st.sampled_from(NAMES), max_size=2), aged=st.booleans())
    def change_need(self, index: int, excluded: list[str], aged: bool) -> None:
        task = self.oracle.tasks[index % len(self.oracle.tasks)]
        self.board.discard_task(task)
        task.need = task.need._replace(excluded=frozenset(excluded), aged=aged)
        self.board.add_task(task)

    # --- workers

    @rule(
        skill=st.integers(1, 10),
        specialties=SPECIALTIES,
        types=st.none() | SPECIALTIES,
        slots=st.integers(1, 4),
        reserve=st.sampled_from([0, 0, 5, 10]),
        name=st.none() | st.sampled_from(NAMES),
    )
    def add_worker(
        self,
        *,
        skill: int,
        specialties: list[str],
        types: list[str] | None,
        slots: int,
        reserve: int,
        name: str | None,
    ) -> None:
        self.workers_added += 1
        worker_name = name or f"w{self.workers_added}"
        if any(worker.name == worker_name for worker in self.oracle.workers):
            return
        worker = worker_entry(
            self.workers_added,
            skill,
            worker_name,
            specialties=specialties,
            types=types,
            slots=slots,
            reserve=reserve,
        )
        self.oracle.workers.append(worker)
        self.board.add_worker(worker)

    @precondition(lambda self: self.oracle.workers)
    @rule(index=INDEXES)
    def remove_worker(self, index: int) -> None:
        worker = self._worker(index)
        self.oracle.workers.remove(worker)
        self.board.remove_worker(worker, self.now)
        for task in list(worker.attempts.values()):
            self._end_attempt(task, worker, is_retried=True)

    @precondition(lambda self: self.oracle.workers)
    @rule(index=INDEXES, type=st.sampled_from(TYPES))
    def refuse_type(self, index: int, type: str) -> None:
        worker = self._worker(index)
        self.board.remove_worker(worker, self.now)
        worker.skills = worker.skills._replace(refused=worker.skills.refused | {type})
        self.board.add_worker(worker)

    @precondition(lambda self: self.oracle.workers)
    @rule(index=INDEXES, slots=st.integers(1, 4))
    def change_profile(self, index: int, slots: int) -> None:
        worker = self._worker(index)
        self.board.remove_worker(worker, self.now)
        worker.profile = profile(worker.profile.title, 9, slots=slots)
        worker.skills = Skills.from_profile(worker.profile)
        self.board.add_worker(worker)

    @precondition(lambda self: self.oracle.workers)
    @rule(index=INDEXES, suspect=st.booleans(), draining=st.booleans())
    def change_availability(self, index: int, suspect: bool, draining: bool) -> None:
        worker = self._worker(index)
        worker.suspect, worker.draining = suspect, draining
        self.board.worker_changed(worker)

    @rule(type=st.sampled_from(TYPES), seconds=st.sampled_from([0.001, 0.04, 5.0]))
    def record_duration(self, type: str, seconds: float) -> None:
        """Let the lookahead learn the duration of an attempt."""
        if self.lookahead.record_duration(type, 7.0, 7.0 + seconds):
            self.board.recheck_held_up()

    def _worker(self, index: int) -> WorkerEntry:
        return self.oracle.workers[index % len(self.oracle.workers)]

    # --- matches

    @precondition(lambda self: self.assigned)
    @rule(indexes=st.lists(INDEXES, min_size=1, max_size=3), is_retried=st.booleans())
    def end_attempts(self, indexes: list[int], is_retried: bool) -> None:
        for index in indexes:
            if self.assigned:
                self._end_attempt(*self.assigned[index % len(self.assigned)], is_retried=is_retried)

    def _end_attempt(self, task: TaskEntry, worker: WorkerEntry, *, is_retried: bool) -> None:
        self.assigned.remove((task, worker))
        self.lookahead.remove_attempt(worker, task)
        self.board.worker_changed(worker)
        if is_retried:
            self._add_task(task)

    @rule(limit=st.sampled_from([1, 2, 1000]))
    def match(self, limit: int) -> None:
        """Take all matches, or only some of them, as no round does."""
        for _ in range(limit):
            found, expected = self.board.next_match(), self.oracle.next_match()
            assert found == expected
            if found is None:
                break
            task, worker = found
            self.oracle.tasks.remove(task)
            self.lookahead.add_attempt(worker, task)
            self.assigned.append(found)
            self.board.worker_changed(worker)
        assert self.board.ready_count == len(self.oracle.tasks)
        for task in self.oracle.tasks[:3]:
            able = self.oracle.able_workers(task.need)
            assert sorted(self.board.capable_workers(task.need), key=id) == sorted(able, key=id)
            assert (self.board.unroutable_since(task.need) is None) == bool(able)
        assert self.board.skill_counts == Counter(w.skills for w in self.oracle.workers)
        self._check_stuck_and_aged_tasks()

    def _check_stuck_and_aged_tasks(self) -> None:
        stuck = set(self.board.stuck_by_exclusion(self.now))
        assert stuck == {
            task
            for task in self.oracle.tasks
            if not self.oracle.able_workers(task.need)
            and self.oracle.able_workers(task.need._replace(excluded=frozenset()))
        }
        aged = self.board.tasks_to_age(self.now - 5.0, 1000)
        assert len(aged) == len(set(aged))
        assert set(aged) == {
            task
            for task in self.oracle.tasks
            if not task.need.aged
            and task.ready_at <= self.now - 5.0
            and len(self.oracle.able_workers(task.need._replace(aged=True)))
            > len(self.oracle.able_workers(task.need))
        }

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.match(1000)
            self.patch.undo()


class ArrivalBoardMachine(BoardMachine):
    policy = Arrival


class ManyQueuesBoardMachine(BoardMachine):
    queues_before_cleanup = 4096


@pytest.mark.parametrize("machine", [BoardMachine, ArrivalBoardMachine, ManyQueuesBoardMachine])
def test_the_board_matches_as_the_oracle(machine: type[BoardMachine]) -> None:
    run_state_machine_as_test(machine, settings=budget(100, stateful_step_count=40))


class FewNeeds:
    """Has few needs and many priorities: the first task of a need changes while no worker is free."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lookahead = Lookahead(LookaheadPolicy(max_prefetched=self.random.choice([0, 1, 3])))
        for known in TYPES[: self.random.randint(0, 2)]:
            self.lookahead.record_duration(known, 0.0, 0.01)
        self.board = Board(BestFit(), self.lookahead)
        self.oracle = BoardOracle(BestFit(), self.lookahead)
        self.types = TYPES[: self.random.randint(2, 4)]
        self.priorities = self.random.choice([3, 5, 20, 50])
        self.assigned: list[tuple[TaskEntry, WorkerEntry]] = []
        for number in range(1, self.random.randint(2, 5)):
            self._add_worker(number)

    def _add_worker(self, number: int) -> None:
        some_types = self.random.sample(self.types, self.random.randint(1, len(self.types)))
        worker = worker_entry(
            number,
            self.random.randint(1, 10),
            f"w{number}",
            types=self.random.choice([None, some_types]),
            slots=self.random.choice([1, 1, 1, 2]),
        )
        self.oracle.workers.append(worker)
        self.board.add_worker(worker)

    def step(self, number: int) -> None:
        action = self.random.random()
        if action < 0.5:
            task_need = need(self.random.choice(self.types), self.random.choice([1, 1, 5, 10]))
            task = task_entry(number, task_need, self.random.randint(1, self.priorities))
            self.board.add_task(task)
            self.oracle.tasks.append(task)
        elif action < 0.65 and self.oracle.tasks:
            self.board.discard_task(
                self.oracle.tasks.pop(self.random.randrange(len(self.oracle.tasks)))
            )
        elif self.assigned:
            task, worker = self.assigned.pop(self.random.randrange(len(self.assigned)))
            self.lookahead.remove_attempt(worker, task)
            self.board.worker_changed(worker)

    def match(self) -> bool:
        """Check that board and oracle find the same match, take it, and return whether there was one."""
        match = self.board.next_match()
        assert match == self.oracle.next_match()
        if match is None:
            return False
        task, worker = match
        self.oracle.tasks.remove(task)
        self.lookahead.add_attempt(worker, task)
        self.assigned.append(match)
        self.board.worker_changed(worker)
        return True


@pytest.mark.parametrize("seed", range(60))
def test_with_few_needs_and_many_priorities_the_board_matches_as_the_oracle(seed: int) -> None:
    few_needs = FewNeeds(seed)
    for number in range(200):
        few_needs.step(number)
        while few_needs.random.random() < 0.7 and few_needs.match():
            pass
