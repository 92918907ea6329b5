"""The last words of a run."""

from collections import Counter

import pytest

from skillq.messages import TaskStatus
from skillq.summary import EndedTask, success_rate, summary

SUCCEEDED, FAILED = TaskStatus.SUCCEEDED, TaskStatus.FAILED


def test_the_tutorial_s_words() -> None:
    names = ("Junior", "Intermediate", "Senior")
    assert summary([EndedTask(str(n), name, SUCCEEDED) for n, name in enumerate(names, 1)]) == [
        "All tasks completed",
        "Task 1 assigned to Junior - Success",
        "Task 2 assigned to Intermediate - Success",
        "Task 3 assigned to Senior - Success",
        "Success rate: 100.00%",
    ]


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (FAILED, "Failure"),
        (TaskStatus.TIMED_OUT, "Timed out"),
        (TaskStatus.CANCELLED, "Cancelled"),
        (TaskStatus.DEAD_LETTERED, "Given up"),
    ],
)
def test_each_other_end_has_a_word_and_a_reason(status: TaskStatus, word: str) -> None:
    assert summary([EndedTask("1", "Ada", status, "because")])[1] == (
        f"Task 1 assigned to Ada - {word} (because)"
    )


def test_every_status_that_ends_a_task_has_a_word() -> None:
    for status in TaskStatus:
        if status.is_terminal:
            assert len(summary([EndedTask("1", None, status)])) == 3


def test_a_task_that_no_worker_got_says_so() -> None:
    line = summary([EndedTask("1", None, FAILED, "dependency a failed")])[1]
    assert line == "Task 1 not assigned - Failure (dependency a failed)"


@pytest.mark.parametrize(
    ("well", "badly", "rate"),
    [(2, 1, 66.67), (0, 1, 0.0), (1, 0, 100.0), (0, 0, 0.0), (1, 2, 33.33)],
)
def test_the_rate_is_of_the_tasks_that_have_ended(well: int, badly: int, rate: float) -> None:
    counts = {SUCCEEDED: well, FAILED: badly, TaskStatus.READY: 100}
    assert round(success_rate(counts), 2) == rate


def test_a_long_run_names_only_what_did_not_succeed_and_counts_the_rest() -> None:
    ended = [EndedTask(str(n), "Ada", FAILED if n == 7 else SUCCEEDED) for n in range(2000)]
    assert summary(ended) == [
        "All tasks completed",
        "Task 7 assigned to Ada - Failure",
        "… and 1999 more",
        "Success rate: 99.95%",
    ]


def test_tasks_that_others_added_to_the_run_are_counted() -> None:
    ended = [EndedTask("1", "Ada", SUCCEEDED)]
    lines = summary(ended, Counter({SUCCEEDED: 1, FAILED: 1}))
    assert lines[-2:] == ["… and 1 more", "Success rate: 50.00%"]
