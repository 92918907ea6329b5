"""A manager restores the tasks and workers of the previous manager."""

import pytest

from skillq.messages import Outcome, TaskStatus
from skillq_manager.core import commands as c
from tests.support.command_summaries import end_statuses
from tests.support.factories import (
    Driver,
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
A, B = task("a"), task("b", depends_on=("a",))
ANYWAY = task("d", depends_on=("a",), on_failed_dependency="run")


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
    # The result is in the queue from which the new manager has not read yet.
    row = live_row(
        task("a", **more), S.RUNNING, attempt=1, worker="ada", incarnation="1", assigned_at=901.0
    )
    assert do.restore(row, workers=[ADA]) == []
    reported = result(c.Assign(("default", "a"), "task", 1, ADA, 0.0))
    assert do(after=14.0) == []
    assert do.status("a") is S.RUNNING
    assert (
        one(do(results(c.Assign(("default", "a"), "task", 1, ADA, 0.0))), c.EndAttempt).result
        == reported
    )


def test_after_a_restore_a_result_that_does_not_come_is_timed_out(do: Driver) -> None:
    row = live_row(
        task("a", timeout=5), S.RUNNING, attempt=1, worker="ada", incarnation="1", assigned_at=901.0
    )
    do.restore(row, workers=[ADA])
    out = do(after=16.0)
    assert end_statuses(out) == {"a": S.TIMED_OUT}
    assert one(out, c.EndAttempt).reason == "took longer than 5 s"
