"""A task changes its status only as the table of transitions allows."""

from itertools import product

import pytest

from skillq.messages import TERMINAL, TaskStatus
from skillq_manager.core.rules.lifecycle import TRANSITIONS, InvalidTransition, check_transition

ALLOWED = [(a, b) for a, b in product(TaskStatus, TaskStatus) if b in TRANSITIONS[a]]
OTHERS = [pair for pair in product(TaskStatus, TaskStatus) if pair not in ALLOWED]


def test_every_status_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(TaskStatus)


@pytest.mark.parametrize(("status", "to"), ALLOWED)
def test_each_transition_of_the_table_is_allowed_and_has_a_description(
    status: TaskStatus, to: TaskStatus
) -> None:
    assert check_transition(status, to) is to
    assert TRANSITIONS[status][to]


@pytest.mark.parametrize(("status", "to"), OTHERS)
def test_any_other_transition_raises_and_names_both_statuses(
    status: TaskStatus, to: TaskStatus
) -> None:
    with pytest.raises(InvalidTransition, match=f"a {status} task cannot become {to}"):
        check_transition(status, to)


def test_only_tasks_that_ended_without_success_can_be_retried() -> None:
    for status in TERMINAL - {TaskStatus.SUCCEEDED}:
        assert TRANSITIONS[status].keys() == {TaskStatus.READY, TaskStatus.BLOCKED}
    assert not TRANSITIONS[TaskStatus.SUCCEEDED]
    assert all(TRANSITIONS[status] for status in set(TaskStatus) - TERMINAL)


def test_only_a_ready_task_can_be_assigned() -> None:
    before = {status for status in TaskStatus if TaskStatus.ASSIGNED in TRANSITIONS[status]}
    assert before == {TaskStatus.READY}
