"""Tasks called off, sent again by an operator, restored by the next manager."""

import pytest

from skillq.messages import Outcome, Task, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import entries
from skillq_manager.core import events as e
from tests.factories import (
    Driver,
    cancel,
    connect,
    heartbeat,
    live_row,
    need,
    one,
    pairs,
    pick,
    profile,
    ref,
    result,
    results,
    submission,
    task,
)

S = TaskStatus
ADA = profile("ada")
A, B, C = task("a"), task("b", depends_on=("a",)), task("c", depends_on=("b",))
ANYWAY = task("d", depends_on=("a",), on_failed_dependency="run")


@pytest.fixture
def do() -> Driver:
    return Driver()


def end_statuses(out: list[c.Command]) -> dict[str, TaskStatus]:
    """What was said of the end of tasks, once each."""
    said = [(x.key[1], x.status) for x in out if isinstance(x, c.SetStatus | c.EndAttempt)]
    assert len(said) == len(dict(said))
    return dict(said)


# --- submitted


def test_an_invalid_submission_is_refused_and_changes_nothing(do: Driver) -> None:
    given = submission(A)
    assert do(e.SubmissionInvalid(given, "because")) == [
        c.AnswerSubmission(given, 0, 0, "because", do.now)
    ]
    assert do.state.is_idle


def test_a_resubmitted_run_that_had_ended_is_reported_as_complete_before(do: Driver) -> None:
    ended = do(results(one(do(connect(), submission(A)), c.Assign)))
    assert not one(ended, c.CompleteRun).was_complete
    assert one(do(submission(A)), c.CompleteRun).was_complete
    more = do(submission(A, task("more")))
    assert not pick(more, c.CompleteRun)
    assert not one(do(results(one(more, c.Assign))), c.CompleteRun).was_complete


def test_a_run_that_ends_in_the_round_of_its_resubmission_is_newly_complete(do: Driver) -> None:
    held = one(do(connect(), submission(A)), c.Assign)
    assert not one(do(results(held), submission(A)), c.CompleteRun).was_complete
    held = one(do(submission(task("b"))), c.Assign)
    assert not one(do(submission(A), results(held)), c.CompleteRun).was_complete


# --- called off


def test_a_task_is_cancelled_in_any_status(do: Driver) -> None:
    retried = task("late", difficulty=2, max_attempts=2)
    held = one(do(connect(), submission(retried)), c.Assign)
    do(results(held, Outcome.FAILED))  # in back-off
    do(submission(task("hard", 9), task("wait", depends_on=("hard",)), A))
    out = do(cancel("late", "hard", "wait", "a"))
    assert end_statuses(out) == dict.fromkeys(["late", "hard", "wait", "a"], S.CANCELLED)
    assert one(out, c.AnswerRequest).done == tuple(
        ("default", id) for id in ("late", "hard", "wait", "a")
    )
    assert one(out, c.EndAttempt).reason == "not wanted"
    assert do.state.is_idle


def test_a_worker_whose_attempt_is_cancelled_gets_other_work_at_once(do: Driver) -> None:
    held = one(do(connect(), submission(A)), c.Assign)
    do(submission(task("next")))
    out = do(cancel("a"))
    assert one(out, c.CancelAttempts) == c.CancelAttempts(ADA, "", (ref(held),))
    assert one(out, c.EndAttempt).outcome is Outcome.CANCELLED
    assert pairs(out) == [("next", "ada")]
    assert isinstance(do(results(held))[0], c.RecordStaleResult)


def test_tasks_of_a_cancelled_run_do_not_fail_each_other(do: Driver) -> None:
    do(connect(), submission(C, B, A, ANYWAY), submission(task("z"), run="other"))
    out = do(cancel())
    assert end_statuses(out) == dict.fromkeys("abcd", S.CANCELLED)
    assert sorted(one(out, c.AnswerRequest).done) == [("default", id) for id in "abcd"]
    assert one(out, c.CompleteRun).run == "default"
    assert not do.state.tasks.dependents


def test_dependents_of_a_cancelled_task_fail_unless_they_run_anyway(do: Driver) -> None:
    do(submission(A, B, C, ANYWAY))
    out = do(cancel("b"))
    assert end_statuses(out) == {"b": S.CANCELLED, "c": S.FAILED}
    assert end_statuses(do(cancel("a"))) == {"a": S.CANCELLED, "d": S.READY}


def test_cancelling_twice_or_an_ended_or_unknown_task_does_nothing(do: Driver) -> None:
    do(results(one(do(connect(), submission(A)), c.Assign)))
    do(submission(task("b")), cancel("b", "b"))
    assert do(cancel("a", "b", "nobody")) == [c.AnswerRequest("r", (), {})]


# --- sent again


def submit_and_fail(do: Driver, *tasks: Task) -> None:
    do(*(results(held, Outcome.FAILED) for held in pick(do(submission(*tasks)), c.Assign)))


def test_a_retried_task_has_all_its_attempts_again_and_the_next_number(do: Driver) -> None:
    do(connect())
    submit_and_fail(do, A)
    out = do.again(A)
    assert one(out, c.Reopen) == c.Reopen(("default", "a"), "task", S.READY, 1, do.now)
    assert one(out, c.AnswerRequest) == c.AnswerRequest("r", (("default", "a"),), {})
    held = one(out, c.Assign)
    assert held.attempt == 2
    assert one(do(results(held)), c.EndAttempt).failures == 0
    assert do.status("a") is S.SUCCEEDED


def test_the_deadline_of_a_retried_task_starts_again(do: Driver) -> None:
    slow = task("a", 9, deadline=10)
    do(submission(slow))
    assert end_statuses(do(after=10.0)) == {"a": S.TIMED_OUT}
    do.again(slow)
    assert end_statuses(do(after=9.5)) == {}
    assert end_statuses(do(after=0.5)) == {"a": S.TIMED_OUT}


def test_tasks_retried_together_in_any_order_wait_for_their_dependencies(do: Driver) -> None:
    do(connect())
    submit_and_fail(do, C, B, A)
    out = do.again(C, B, A, A)
    assert [(x.key[1], x.status) for x in pick(out, c.Reopen)] == [
        ("a", S.READY),
        ("b", S.BLOCKED),
        ("c", S.BLOCKED),
    ]
    for id in "abc":
        held = one(out, c.Assign)
        assert held.key[1] == id
        out = do(results(held))
    assert do.state.is_idle


def test_a_retry_is_refused_before_the_dependencies_are_retried(do: Driver) -> None:
    do(connect())
    submit_and_fail(do, A, B)
    assert one(do.again(B), c.AnswerRequest).refused == {
        ("default", "b"): "depends on a, which failed; retry that first, or with it"
    }
    do.again(A)
    assert one(do.again(B), c.Reopen).status is S.BLOCKED


def test_a_task_that_runs_after_a_failed_dependency_is_retried_alone(do: Driver) -> None:
    do(connect())
    submit_and_fail(do, A, ANYWAY)
    do(cancel("d"))
    assert one(do.again(ANYWAY), c.Reopen).status is S.READY


def test_a_task_that_is_open_or_succeeded_is_not_retried(do: Driver) -> None:
    held = one(do(connect(), submission(A, task("z", 9))), c.Assign)
    assert one(do.again(A), c.AnswerRequest).refused == {("default", "a"): "has not ended"}
    do(results(held))
    assert one(do.again(A), c.AnswerRequest).refused == {("default", "a"): "has succeeded"}


def test_a_retry_request_for_a_task_that_ends_in_this_round_is_refused(do: Driver) -> None:
    """What the store said of it then, its status or its last attempt, is true no more."""
    held = one(do(connect(), submission(A)), c.Assign)
    old = e.StoredTask(held.key, 1, A, A.fingerprint(), S.RUNNING, 1)
    asked = e.RetryRequested("r", (old,), {})
    reasons = {held.key: "has ended just now; ask again"}
    assert one(do(results(held, Outcome.FAILED), asked), c.AnswerRequest).refused == reasons
    assert one(do(asked), c.AnswerRequest).refused == reasons


def test_a_retry_request_read_before_the_last_attempt_does_not_reuse_its_number(
    do: Driver,
) -> None:
    do(connect())
    submit_and_fail(do, A)
    asked = e.RetryRequested(
        "r", (e.StoredTask(("default", "a"), 1, A, A.fingerprint(), S.FAILED, 1),), {}
    )
    held = one(do(asked), c.Assign)
    out = do(results(held, Outcome.FAILED), asked)
    assert one(out, c.AnswerRequest).refused == {held.key: "has ended just now; ask again"}
    assert one(do.again(A), c.Assign).attempt == 3


def test_equal_needs_and_terms_are_shared_and_the_cache_is_limited(
    do: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_CACHED_SHAPES", 3)
    do(submission(*(task(f"t{n}", timeout=5) for n in range(9))))
    assert len({id(entry.terms) for entry in do.state.tasks.live.values()}) == 1
    assert len({id(entry.need) for entry in do.state.tasks.live.values()}) == 1
    do(submission(*(task(f"u{n}", timeout=n + 1) for n in range(99))))
    assert len(do.state._entries._needs_and_terms) <= 3


# --- restored


def test_the_next_manager_assigns_ready_tasks_with_the_next_attempt_number(do: Driver) -> None:
    out = do.restore(live_row(A, attempt=7, failures=0, seq=5), workers=[ADA])
    assert one(out, c.Assign).attempt == 8
    assert one(do(submission(task("new"))), c.AddTask).seq == 6


def test_a_restored_manager_waits_for_expected_workers_only_before_any_attempt() -> None:
    do = Driver(expected_workers=2)
    assert not pairs(do.restore(live_row(A), workers=[ADA]))
    do = Driver(expected_workers=2)
    assert pairs(do.restore(live_row(A, attempt=1), workers=[ADA])) == [("a", "ada")]


def test_a_worker_keeps_its_attempts_when_another_manager_leads(do: Driver) -> None:
    row = live_row(A, S.RUNNING, attempt=3, worker="ada", incarnation="1", assigned_at=950.0)
    assert do.restore(row, workers=[ADA]) == []
    held = c.Assign(("default", "a"), "task", 3, ADA, 0.0)
    assert do(heartbeat(ADA, ref(held))) == []
    assert one(do(results(held)), c.EndAttempt).status is S.SUCCEEDED


def test_a_restored_assignment_is_resent(do: Driver) -> None:
    row = live_row(A, S.ASSIGNED, attempt=3, worker="ada", incarnation="1", assigned_at=950.0)
    assert do.restore(row, workers=[ADA]) == [c.Resend(("default", "a"), 3, ADA)]


def test_after_a_restore_each_worker_has_its_full_lease_to_send_a_heartbeat(do: Driver) -> None:
    row = live_row(A, S.RUNNING, attempt=3, worker="ada", incarnation="1", assigned_at=1.0)
    do.restore(row, workers=[ADA])
    assert not pick(do(after=29.0), c.EndAttempt)
    assert one(do(after=1.0), c.EndAttempt).outcome is Outcome.LOST


@pytest.mark.parametrize("workers", [[], [profile("ada", incarnation="2")]])
def test_an_attempt_of_another_incarnation_is_lost_on_restore(workers: list[object]) -> None:
    do = Driver()
    row = live_row(
        A, S.ASSIGNED, attempt=3, losses=0, worker="ada", incarnation="1", assigned_at=1.0
    )
    out = do.restore(row, workers=workers)  # type: ignore[arg-type]
    end = one(out, c.EndAttempt)
    assert (end.outcome, end.status, end.losses) == (Outcome.LOST, S.READY, 1)
    assert (end.worker.name, end.worker.incarnation) == ("ada", "1")
    assert [x.attempt for x in pick(out, c.Assign)] == [4] * len(workers)


def test_lost_attempts_are_counted_across_managers(do: Driver) -> None:
    rows = [
        live_row(A, S.RUNNING, attempt=3, losses=2, worker="ada", incarnation="1", assigned_at=1.0),
        live_row(B, S.BLOCKED, seq=2),
        live_row(ANYWAY, S.BLOCKED, seq=3),
    ]
    out = do.restore(*rows)
    assert end_statuses(out) == {"a": S.DEAD_LETTERED, "b": S.FAILED, "d": S.READY}


def test_a_restored_task_continues_its_back_off(do: Driver) -> None:
    rows = [
        live_row(A, attempt=1, retry_at=do.now - 99.0),
        live_row(task("b"), attempt=1, retry_at=do.now + 5.0, seq=2),
    ]
    assert pairs(do.restore(*rows, workers=[profile("ada", slots=2)])) == [("a", "ada")]
    assert not pairs(do(after=4.5))
    assert pairs(do(after=0.5)) == [("b", "ada")]


def test_failures_are_counted_across_managers(do: Driver) -> None:
    twice = task("a", max_attempts=2)
    held = one(do.restore(live_row(twice, attempt=1, failures=1), workers=[ADA]), c.Assign)
    end = one(do(results(held, Outcome.FAILED)), c.EndAttempt)
    assert (end.status, end.failures) == (S.FAILED, 2)


def test_the_changed_need_of_a_task_is_kept_across_managers(do: Driver) -> None:
    row = live_row(A, attempt=1, need=need(difficulty=7, excluded=["ada"]))
    workers = [profile("ada", 9), profile("bob", 9), profile("cyd", 6)]
    assert pairs(do.restore(row, workers=workers)) == [("a", "bob")]


def test_a_restored_blocked_task_waits_for_its_open_dependencies(do: Driver) -> None:
    both = task("c", depends_on=("a", "gone"))
    out = do.restore(live_row(both, S.BLOCKED), live_row(A, seq=2), workers=[ADA])
    assert end_statuses(do(results(one(out, c.Assign)))) == {"a": S.SUCCEEDED, "c": S.READY}


def test_a_blocked_task_without_open_dependencies_becomes_ready_on_restore(do: Driver) -> None:
    assert pairs(do.restore(live_row(B, S.BLOCKED), workers=[ADA])) == [("b", "ada")]


def test_after_a_restore_deadlines_still_count_from_the_submission(do: Driver) -> None:
    rows = [
        live_row(task("a", 9, deadline=50), submitted_at=do.now - 60.0),
        live_row(task("b", 9, deadline=50), submitted_at=do.now - 40.0, seq=2),
    ]
    assert end_statuses(do.restore(*rows)) == {"a": S.TIMED_OUT}
    assert end_statuses(do(after=10.0)) == {"b": S.TIMED_OUT}


@pytest.mark.parametrize("more", [{"timeout": 5}, {"deadline": 5}])
def test_a_result_that_was_queued_while_no_manager_ran_is_not_too_late(
    more: dict[str, int], do: Driver
) -> None:
    """It lies in the queue that this manager only begins to read."""
    row = live_row(
        task("a", **more), S.RUNNING, attempt=1, worker="ada", incarnation="1", assigned_at=901.0
    )
    assert do.restore(row, workers=[ADA]) == []
    said = result(c.Assign(("default", "a"), "task", 1, ADA, 0.0))
    assert do(after=14.0) == []
    assert do.status("a") is S.RUNNING
    assert (
        one(do(results(c.Assign(("default", "a"), "task", 1, ADA, 0.0))), c.EndAttempt).result
        == said
    )


def test_after_a_restore_a_result_that_does_not_come_is_timed_out(do: Driver) -> None:
    row = live_row(
        task("a", timeout=5), S.RUNNING, attempt=1, worker="ada", incarnation="1", assigned_at=901.0
    )
    do.restore(row, workers=[ADA])
    out = do(after=16.0)
    assert end_statuses(out) == {"a": S.TIMED_OUT}
    assert one(out, c.EndAttempt).reason == "took longer than 5 s"
