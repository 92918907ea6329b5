"""Timers and task queues drop entries of tasks that have ended."""

from skillq.messages import TaskStatus
from skillq_manager.core import commands as c
from skillq_manager.core.timers import TimerKind, Timers
from tests.support.factories import (
    Driver,
    cancel,
    connect,
    pick,
    results,
    submission,
    task,
    task_entry,
    terms,
)

S = TaskStatus


def test_timers_of_ended_tasks_are_removed() -> None:
    timers = Timers()
    entry = task_entry(1)
    entry.terms = terms(deadline=1)
    for n in range(5000):
        ended = task_entry(n)
        ended.status = S.SUCCEEDED
        timers.add_timer(1e9, TimerKind.DEADLINE, ended)
    timers.add_timer(5.0, TimerKind.DEADLINE, entry)
    assert len(timers._heap) < 1100
    assert timers.next_at() == 5.0
    assert [(at, task) for at, _, task in timers] == [(5.0, entry)]
    assert list(timers.due(4.9)) == []
    assert list(timers.due(5.0)) == [(TimerKind.DEADLINE, entry)]
    assert timers.next_at() is None


def test_timers_of_many_met_deadlines_are_removed(do: Driver) -> None:
    do(connect(slots=100))
    for round_ in range(60):
        out = do(submission(*(task(f"{round_}-{n}", deadline=1e6, timeout=9) for n in range(50))))
        do(*(results(held) for held in pick(out, c.Assign)))
    assert len(do.state.tasks.timers._heap) < 2000


def test_cancelled_tasks_behind_a_waiting_task_are_removed_from_the_task_queue(do: Driver) -> None:
    do(connect(), submission(task("urgent", 9, priority=100)))
    for round_ in range(10):
        ids = [f"{round_}-{n}" for n in range(100)]
        do(submission(*(task(id, 9) for id in ids)))
        do(cancel(*ids))
    (waiting,) = do.state.board._queues.values()
    assert len(waiting.heap) < 200
