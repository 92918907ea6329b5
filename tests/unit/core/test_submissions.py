"""Submissions are accepted or refused as a whole, and known tasks are not added again."""

import pytest

from skillq.messages import TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core import entries
from skillq_manager.core import events as e
from tests.support.factories import (
    Driver,
    connect,
    one,
    pick,
    results,
    submission,
    task,
)

S = TaskStatus
A = task("a")


def test_a_submission_is_answered_and_its_tasks_are_added_in_order(do: Driver) -> None:
    out = do(submission(task("b"), task("a")))
    assert [type(command) for command in out] == [c.AnswerSubmission, c.AddTask, c.AddTask]
    answer = one(out, c.AnswerSubmission)
    assert (answer.accepted, answer.known, answer.reason) == (2, 0, None)
    assert [(add.key[1], add.status, add.at) for add in pick(out, c.AddTask)] == [
        ("b", S.READY, do.now),
        ("a", S.READY, do.now),
    ]


def test_a_known_task_is_not_added_again(do: Driver) -> None:
    do(submission(task("a")))
    answer = one(do(submission(task("a"), task("b"))), c.AnswerSubmission)
    assert (answer.accepted, answer.known) == (1, 1)


def test_a_task_submitted_twice_in_one_round_is_added_once(do: Driver) -> None:
    out = do(submission(task("a")), submission(task("a")))
    assert len(pick(out, c.AddTask)) == 1
    assert [answer.known for answer in pick(out, c.AnswerSubmission)] == [0, 1]


def test_a_task_that_ends_in_the_same_round_is_known(do: Driver, held: c.Assign) -> None:
    out = do(results(held), submission(task("a")))
    assert one(out, c.AnswerSubmission).known == 1
    assert not pick(out, c.AddTask)


def test_another_definition_of_a_known_task_refuses_the_whole_submission(do: Driver) -> None:
    do(submission(task("a", 1)))
    out = do(submission(task("new"), task("a", 2)))
    assert one(out, c.AnswerSubmission).reason == (
        "task a is already in run default with another definition; use another id or another run"
    )
    assert not pick(out, c.AddTask)


def test_an_unknown_dependency_refuses_the_whole_submission(do: Driver) -> None:
    out = do(submission(task("new"), task("a", depends_on=("b",))))
    assert one(out, c.AnswerSubmission).reason == (
        "task a depends on b, which is neither in this submission nor in run default; "
        "submit it first or correct the id"
    )
    assert not pick(out, c.AddTask)


def test_a_run_title_with_the_same_name_as_another_run_is_refused(do: Driver) -> None:
    do(submission(task("a"), run="My run"))
    answer = one(do(submission(task("b"), run="my-run")), c.AnswerSubmission)
    assert answer.reason == (
        "run 'my-run' would be my-run on the wire, as run 'My run' is; choose another name"
    )


def test_run_titles_with_the_same_name_in_one_round_are_refused(do: Driver) -> None:
    first, second = pick(
        do(submission(task("a"), run="My run"), submission(task("b"), run="my-run")),
        c.AnswerSubmission,
    )
    assert first.reason is None
    assert second.reason is not None


def test_two_runs_can_have_tasks_with_the_same_id(do: Driver) -> None:
    do(submission(task("a", 1), run="one"))
    answer = one(do(submission(task("a", 2), run="two")), c.AnswerSubmission)
    assert answer.accepted == 1


def test_a_dependency_that_the_store_has_lost_raises(do: Driver) -> None:
    with pytest.raises(KeyError):
        do.state._entries.status(("run", "nowhere"), {})


def test_an_invalid_submission_is_refused_and_changes_nothing(do: Driver) -> None:
    invalid = submission(A)
    assert do(e.SubmissionInvalid(invalid, "because")) == [
        c.AnswerSubmission(invalid, 0, 0, "because", do.now)
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


def test_equal_needs_and_terms_are_shared_and_the_cache_is_limited(
    do: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_CACHED_SHAPES", 3)
    do(submission(*(task(f"t{n}", timeout=5) for n in range(9))))
    assert len({id(entry.terms) for entry in do.state.tasks.live.values()}) == 1
    assert len({id(entry.need) for entry in do.state.tasks.live.values()}) == 1
    do(submission(*(task(f"u{n}", timeout=n + 1) for n in range(99))))
    assert len(do.state._entries._needs_and_terms) <= 3
