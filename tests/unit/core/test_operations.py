"""Operators cancel and retry tasks."""

from skillq.messages import Outcome, Task, TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from tests.support.command_summaries import end_statuses
from tests.support.factories import (
    Driver,
    cancel,
    connect,
    one,
    pairs,
    pick,
    profile,
    ref,
    results,
    submission,
    task,
)

S = TaskStatus
ADA = profile("ada")
A, B, C = task("a"), task("b", depends_on=("a",)), task("c", depends_on=("b",))
ANYWAY = task("d", depends_on=("a",), on_failed_dependency="run")


# --- cancelled


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


# --- retried


def submit_and_fail(do: Driver, *tasks: Task) -> None:
    do(*(results(held, Outcome.FAILED) for held in pick(do(submission(*tasks)), c.Assign)))


def test_a_retried_task_has_all_its_attempts_again_and_the_next_number(do: Driver) -> None:
    do(connect())
    submit_and_fail(do, A)
    out = do.retry(A)
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
    do.retry(slow)
    assert end_statuses(do(after=9.5)) == {}
    assert end_statuses(do(after=0.5)) == {"a": S.TIMED_OUT}


def test_tasks_retried_together_in_any_order_wait_for_their_dependencies(do: Driver) -> None:
    do(connect())
    submit_and_fail(do, C, B, A)
    out = do.retry(C, B, A, A)
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
    assert one(do.retry(B), c.AnswerRequest).refused == {
        ("default", "b"): "depends on a, which failed; retry that first, or with it"
    }
    do.retry(A)
    assert one(do.retry(B), c.Reopen).status is S.BLOCKED


def test_a_task_that_runs_after_a_failed_dependency_is_retried_alone(do: Driver) -> None:
    do(connect())
    submit_and_fail(do, A, ANYWAY)
    do(cancel("d"))
    assert one(do.retry(ANYWAY), c.Reopen).status is S.READY


def test_a_task_that_is_open_or_succeeded_is_not_retried(do: Driver) -> None:
    held = one(do(connect(), submission(A, task("z", 9))), c.Assign)
    assert one(do.retry(A), c.AnswerRequest).refused == {("default", "a"): "has not ended"}
    do(results(held))
    assert one(do.retry(A), c.AnswerRequest).refused == {("default", "a"): "has succeeded"}


def test_a_retry_request_for_a_task_that_ends_in_this_round_is_refused(do: Driver) -> None:
    # The status and the attempt that the request has from the store are out of date.
    held = one(do(connect(), submission(A)), c.Assign)
    old = e.StoredTask(held.key, 1, A, A.fingerprint(), S.RUNNING, 1)
    request = e.RetryRequested("r", (old,), {})
    reasons = {held.key: "has ended just now; ask again"}
    assert one(do(results(held, Outcome.FAILED), request), c.AnswerRequest).refused == reasons
    assert one(do(request), c.AnswerRequest).refused == reasons


def test_a_retry_request_read_before_the_last_attempt_does_not_reuse_its_number(
    do: Driver,
) -> None:
    do(connect())
    submit_and_fail(do, A)
    request = e.RetryRequested(
        "r", (e.StoredTask(("default", "a"), 1, A, A.fingerprint(), S.FAILED, 1),), {}
    )
    held = one(do(request), c.Assign)
    out = do(results(held, Outcome.FAILED), request)
    assert one(out, c.AnswerRequest).refused == {held.key: "has ended just now; ask again"}
    assert one(do.retry(A), c.Assign).attempt == 3
