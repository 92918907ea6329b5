"""Tasks are submitted, assigned, ended and retried through `State.handle`."""

from dataclasses import replace
from typing import Any

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.rules.matching import Arrival
from skillq_manager.core.rules.retry import RetryPolicy
from tests.support.factories import (
    Driver,
    connect,
    one,
    pairs,
    pick,
    profile,
    progress,
    ref,
    report,
    result,
    results,
    submission,
    task,
)

S = TaskStatus


def one_assigned(do: Driver, **more: Any) -> c.Assign:
    return one(do(connect(), submission(task(**more))), c.Assign)


# --- the example of the tutorial


TEAM = (connect("junior", 3), connect("intermediate", 6), connect("senior", 9))
WORK = submission(task("1", 2), task("2", 5), task("3", 8))


def test_each_task_goes_to_the_least_skilled_worker_that_can_do_it(do: Driver) -> None:
    out = do(*TEAM, WORK)
    assert sorted(pairs(out)) == [("1", "junior"), ("2", "intermediate"), ("3", "senior")]


def test_by_arrival_the_first_task_goes_to_the_first_worker_of_any_skill() -> None:
    out = Driver(Arrival())(*reversed(TEAM), WORK)
    assert pairs(out) == [("1", "senior"), ("2", "intermediate"), ("3", "junior")]


def test_a_worker_with_a_new_free_slot_takes_the_most_difficult_task_first(do: Driver) -> None:
    held = one(do(connect(skill=9), submission(task("first"))), c.Assign)
    do(submission(task("easy", 1), task("hard", 9), task("middle", 5)))
    assert pairs(do(results(held))) == [("hard", "ada")]


def test_a_task_that_no_worker_can_do_blocks_no_other(do: Driver) -> None:
    out = do(connect(skill=5), submission(task("hard", 9, priority=100), task("easy")))
    assert pairs(out) == [("easy", "ada")]


# --- dependencies


def test_a_task_waits_for_all_its_dependencies(do: Driver) -> None:
    out = do(connect(slots=5), submission(task("c", depends_on=("a", "b")), task("a"), task("b")))
    first, second = pick(out, c.Assign)
    assert do.status("c") is S.BLOCKED
    assert not pick(do(results(first)), c.Assign)
    out = do(results(second))
    assert one(out, c.SetStatus).status is S.READY
    assert pairs(out) == [("c", "ada")]


def test_a_task_does_not_wait_for_a_dependency_that_has_succeeded(do: Driver) -> None:
    do(results(one_assigned(do)))
    assert pairs(do(submission(task("b", depends_on=("a",))))) == [("b", "ada")]


def test_a_failure_fails_all_direct_and_indirect_dependents(do: Driver) -> None:
    work = submission(task("a"), task("b", depends_on=("a",)), task("c", depends_on=("b",)))
    held = one(do(connect(), work), c.Assign)
    out = do(results(held, Outcome.FAILED))
    assert [(s.key[1], s.status, s.reason) for s in pick(out, c.SetStatus)] == [
        ("b", S.FAILED, "dependency a failed"),
        ("c", S.FAILED, "dependency b failed"),
    ]
    assert do.state.is_idle


def test_a_task_that_has_failed_with_a_dependency_ignores_its_other_dependencies(
    do: Driver,
) -> None:
    work = submission(task("a"), task("b"), task("c", depends_on=("a", "b")))
    first, second = pick(do(connect(slots=2), work), c.Assign)
    do(results(first, Outcome.FAILED))
    assert not pick(do(results(second)), c.SetStatus)
    assert do.status("c") is S.FAILED


def test_a_task_that_depends_on_a_failure_is_added_and_fails_at_once(do: Driver) -> None:
    do(results(one_assigned(do), Outcome.FAILED))
    out = do(submission(task("c", depends_on=("b",)), task("b", depends_on=("a",))))
    assert [(s.key[1], s.status) for s in pick(out, c.SetStatus)] == [
        ("b", S.FAILED),
        ("c", S.FAILED),
    ]
    assert one(out, c.CompleteRun).run == "default"


# --- attempts


def test_an_attempt_starts_once(do: Driver) -> None:
    held = one_assigned(do)
    assert one(do(progress(held, at=7.0)), c.StartAttempt).at == 7.0
    assert do(progress(held)) == []


def test_progress_of_another_attempt_or_worker_or_store_changes_nothing(do: Driver) -> None:
    held = one_assigned(do)
    other = replace(held, worker=profile("bob"))
    other_store = progress(held).model_copy(update={"store": "lost"})
    assert do(progress(replace(held, attempt=2)), progress(other), other_store) == []


def test_a_result_counts_once(do: Driver) -> None:
    held = one_assigned(do)
    out = do(results(held), results(held))
    assert len(pick(out, c.EndAttempt)) == 1
    assert len(pick(out, c.RecordStaleResult)) == 1


def test_a_result_of_the_current_attempt_from_another_incarnation_is_stale(do: Driver) -> None:
    held = one_assigned(do)
    other = replace(held, worker=profile(incarnation="0"))
    assert [type(command) for command in do(results(other))] == [c.RecordStaleResult]
    assert do.state.is_current(ref(held), "ada", "1")
    assert not do.state.is_current(ref(held), "ada", "0")


def test_a_result_of_a_lost_store_is_stale(do: Driver) -> None:
    # Attempts of the lost store have the same numbers.
    held = one_assigned(do)
    late = results(held).model_copy(update={"store": "lost"})
    assert [type(command) for command in do(late)] == [c.RecordStaleResult]


def test_a_failure_is_retried_after_a_back_off_with_the_next_attempt_number(do: Driver) -> None:
    held = one_assigned(do, max_attempts=2)
    end = one(do(results(held, Outcome.FAILED, error="no")), c.EndAttempt)
    assert (end.status, end.reason, end.retry_at) == (S.READY, "no", do.now + 1.0)
    assert do.state.next_deadline() == do.now + 1.0
    assert do(after=0.5) == []
    again = one(do(after=0.5), c.Assign)
    assert again.attempt == 2
    assert one(do(results(again, Outcome.TIMED_OUT)), c.EndAttempt).status is S.TIMED_OUT


def test_without_jitter_a_failure_is_retried_at_once() -> None:
    do = Driver(chance=0.0)
    held = one_assigned(do, max_attempts=2)
    assert one(do(results(held, Outcome.FAILED)), c.Assign).attempt == 2


def test_a_refused_type_goes_to_another_worker_and_never_to_that_worker_again(do: Driver) -> None:
    held = one(do(connect("ada", 3), connect("bob", 9), submission(task(type="ocr"))), c.Assign)
    assert held.worker.name == "ada"
    assert pairs(do(results(held, Outcome.REFUSED))) == [("a", "bob")]
    assert pairs(do(submission(task("b", type="ocr")), submission(task("c")))) == [("c", "ada")]


def test_an_undeliverable_assignment_dead_letters_the_task(do: Driver) -> None:
    held = one_assigned(do, max_attempts=9)
    out = do(e.AssignmentUndeliverable(ref(held), "too large"))
    end = one(out, c.EndAttempt)
    assert (end.status, end.outcome, end.reason) == (S.DEAD_LETTERED, Outcome.RETURNED, "too large")


def test_an_undeliverable_older_attempt_changes_nothing(do: Driver) -> None:
    old = ref(one_assigned(do)).model_copy(update={"attempt": 0})
    assert do(e.AssignmentUndeliverable(old, "too large")) == []


# --- runs


def test_a_run_is_complete_when_its_last_task_has_ended(do: Driver) -> None:
    first, second = pick(do(connect(slots=2), submission(task("a"), task("b"))), c.Assign)
    assert not pick(do(results(first)), c.CompleteRun)
    assert one(do(results(second)), c.CompleteRun) == c.CompleteRun("default", do.now)
    assert do.state.is_idle
    assert do() == []


def test_a_complete_run_is_reported_complete_again_when_it_is_resubmitted(do: Driver) -> None:
    do(results(one_assigned(do)))
    out = do(submission(task("a")))
    assert [type(command) for command in out] == [c.AnswerSubmission, c.CompleteRun]


def test_a_run_that_ends_and_gets_a_new_task_in_one_round_is_not_complete(do: Driver) -> None:
    held = one_assigned(do)
    assert not pick(do(results(held), submission(task("b"))), c.CompleteRun)


# --- reasons


def test_each_waiting_task_has_a_reason() -> None:
    do = Driver(expected_workers=2, retries=RetryPolicy(base=20.0))
    hard = submission(task("a", 5, max_attempts=2), task("b", 5), task("c", depends_on=("a",)))
    do(connect(skill=5), hard, submission(task("d", 9)))
    assert do.reason("a") == "waits for workers: 1 of 2 expected are connected"
    assert do.reason("c") == "waits for 1 of the tasks it depends on"
    held = one(do(connect("bob", skill=1)), c.Assign)
    assert do.reason("a") == "attempt 1 is with ada"
    assert do.reason("b") == "waits for a slot: 1 of 2 workers can do it, none is free"
    assert do.reason("d") == "no worker can do it: it needs skill 9, the best has 5"
    do(results(held, Outcome.FAILED))
    assert do.reason("a") == "is retried in 10.0 s"
    assert do.reason("nobody-knows") is None


def test_one_message_can_carry_several_results(do: Driver) -> None:
    first, second = pick(do(connect(slots=2), submission(task("a"), task("b"))), c.Assign)
    out = do(report(first.worker, result(first), result(second, Outcome.FAILED)))
    assert [end.status for end in pick(out, c.EndAttempt)] == [S.SUCCEEDED, S.FAILED]
