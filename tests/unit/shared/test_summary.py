"""The summary at the end of a run."""

from collections import Counter

import pytest

from skillq.messages import TaskStatus
from skillq.summary import EndedTask, success_rate, summary

SUCCEEDED, FAILED = TaskStatus.SUCCEEDED, TaskStatus.FAILED


def test_the_summary_of_the_tutorial() -> None:
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
def test_each_other_status_has_a_word_and_a_reason(status: TaskStatus, word: str) -> None:
    assert summary([EndedTask("1", "Ada", status, "because")])[1] == (
        f"Task 1 assigned to Ada - {word} (because)"
    )


def test_every_terminal_status_has_a_word() -> None:
    for status in TaskStatus:
        if status.is_terminal:
            assert len(summary([EndedTask("1", None, status)])) == 3


def test_a_task_without_a_worker_is_shown_as_not_assigned() -> None:
    line = summary([EndedTask("1", None, FAILED, "dependency a failed")])[1]
    assert line == "Task 1 not assigned - Failure (dependency a failed)"


@pytest.mark.parametrize(
    ("succeeded", "failed", "rate"),
    [(2, 1, 66.67), (0, 1, 0.0), (1, 0, 100.0), (0, 0, 0.0), (1, 2, 33.33)],
)
def test_the_success_rate_counts_only_ended_tasks(succeeded: int, failed: int, rate: float) -> None:
    counts = {SUCCEEDED: succeeded, FAILED: failed, TaskStatus.READY: 100}
    assert round(success_rate(counts), 2) == rate


def test_a_long_summary_names_only_tasks_that_did_not_succeed() -> None:
    ended = [EndedTask(str(n), "Ada", FAILED if n == 7 else SUCCEEDED) for n in range(2000)]
    assert summary(ended) == [
        "All tasks completed",
        "Task 7 assigned to Ada - Failure",
        "… and 1999 more",
        "Success rate: 99.95%",
    ]


def test_tasks_that_other_clients_added_to_the_run_are_counted() -> None:
    ended = [EndedTask("1", "Ada", SUCCEEDED)]
    lines = summary(ended, Counter({SUCCEEDED: 1, FAILED: 1}))
    assert lines[-2:] == ["… and 1 more", "Success rate: 50.00%"]
