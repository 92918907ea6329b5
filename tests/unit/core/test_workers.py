"""Workers connect, fall silent, are lost, leave and start again."""

import pytest

from skillq.messages import Lease, Outcome, TaskStatus, WorkerEventKind, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core import explain
from tests.support.command_summaries import worker_events
from tests.support.factories import (
    Driver,
    connect,
    disconnect,
    heartbeat,
    one,
    pairs,
    pick,
    profile,
    results,
    submission,
    task,
)
from tests.support.invariants import InvariantBroken, validate

S = TaskStatus
ADA, RESTARTED_ADA = profile("ada"), profile("ada", incarnation="2")

# --- connecting


def test_a_connect_message_or_a_heartbeat_connects_a_worker(do: Driver) -> None:
    assert worker_events(do(connect())) == [(WorkerEventKind.CONNECTED, "")]
    assert worker_events(do(heartbeat(profile("bob")))) == [(WorkerEventKind.CONNECTED, "")]


def test_a_worker_that_is_not_ready_yet_gets_nothing(do: Driver) -> None:
    assert not pairs(do(connect(ready=False), submission(task())))


def test_a_worker_gets_at_most_as_many_tasks_as_it_has_slots(do: Driver) -> None:
    out = do(connect(slots=2), submission(*(task(id) for id in "abc")))
    assert [id for id, _ in pairs(out)] == ["a", "b"]


def test_nothing_is_assigned_before_the_expected_workers_are_connected() -> None:
    do = Driver(expected_workers=2)
    assert not pairs(do(connect(), submission(task())))
    assert pairs(do(connect("bob", 3))) == [("a", "bob")]


def test_once_all_expected_workers_have_connected_fewer_are_enough() -> None:
    do = Driver(expected_workers=2)
    do(connect(), connect("bob"))
    do(disconnect(profile("bob")))
    assert pairs(do(submission(task()))) == [("a", "ada")]


def test_a_worker_with_a_changed_profile_is_matched_by_the_new_profile(do: Driver) -> None:
    do(connect(skill=1), submission(task(difficulty=9)))
    out = do(heartbeat(profile(skill=9)))
    assert worker_events(out) == [(WorkerEventKind.CONNECTED, "its profile has changed")]
    assert pairs(out) == [("a", "ada")]
    assert worker_events(do(heartbeat(profile(skill=9)))) == []


# --- silence


def test_a_silent_worker_becomes_suspect_once_and_gets_no_new_tasks(do: Driver) -> None:
    do(connect())
    assert worker_events(do(after=15.0)) == [(WorkerEventKind.SUSPECT, "heartbeats are late")]
    assert do(after=1.0) == []
    assert not pairs(do(submission(task())))


def test_each_worker_is_judged_by_the_lease_of_its_own_profile(do: Driver) -> None:
    patient = Lease(heartbeat=20.0, suspect_after=60.0, dead_after=120.0)
    do(connect("ada"), connect("bob", lease=patient))
    assert {save.profile.name for save in pick(do(after=30.0), c.SaveWorker)} == {"ada"}
    assert worker_events(do(after=30.0)) == [(WorkerEventKind.SUSPECT, "heartbeats are late")]
    assert worker_events(do(after=60.0)) == [(WorkerEventKind.LOST, "no heartbeat for 120 s")]


def test_a_heartbeat_of_a_suspect_worker_connects_it_again(do: Driver) -> None:
    do(connect(), submission(task("a")))
    do(submission(task("b")), after=15.0)
    out = do(heartbeat(ADA))
    assert worker_events(out) == [(WorkerEventKind.CONNECTED, "its heartbeats are back")]


def test_a_heartbeat_of_a_suspect_worker_with_a_new_profile_saves_it_once(do: Driver) -> None:
    do(connect())
    do(after=15.0)
    assert len(worker_events(do(heartbeat(profile(skill=9))))) == 1


def test_the_attempts_of_a_lost_worker_go_to_other_workers(do: Driver, held: c.Assign) -> None:
    do(heartbeat(profile("bob")), after=29.0)
    out = do(after=1.0)
    assert worker_events(out) == [(WorkerEventKind.LOST, "no heartbeat for 30 s")]
    end = one(out, c.EndAttempt)
    assert (end.outcome, end.status) == (Outcome.LOST, S.READY)
    assert end.reason == "worker ada: no heartbeat for 30 s"
    assert pairs(out) == [("a", "bob")]


def test_a_task_that_kills_its_workers_is_dead_lettered_at_the_third_loss(
    do: Driver, held: c.Assign
) -> None:
    do(connect(incarnation="2"))
    do(connect(incarnation="3"))
    assert pairs(do(after=4.0)) == [("a", "ada")]
    out = do(connect(incarnation="4"))
    assert one(out, c.EndAttempt).status is S.DEAD_LETTERED
    assert do.state.is_idle


def test_silence_is_checked_once_a_second(do: Driver) -> None:
    assert do.state.next_deadline() is None
    do(connect())
    assert do.state.next_deadline() == do.now + 1.0
    do(after=0.5)
    assert do.state.next_deadline() == do.now + 0.5


# --- leaving


def test_the_attempts_of_a_worker_that_disconnects_are_returned(do: Driver, held: c.Assign) -> None:
    out = do(connect("bob"), disconnect(ADA, "drained"))
    assert (WorkerEventKind.DISCONNECTED, "drained") in worker_events(out)
    end = one(out, c.EndAttempt)
    assert (end.outcome, end.reason) == (Outcome.RETURNED, "worker ada: drained")
    assert pairs(out) == [("a", "bob")]


def test_late_messages_of_a_departed_worker_do_not_connect_it_again(do: Driver) -> None:
    do(connect(), disconnect(ADA))
    assert do(heartbeat(ADA), connect(), disconnect(ADA)) == []


def test_heartbeats_of_two_departed_incarnations_do_not_connect_them_again(do: Driver) -> None:
    do(connect(), connect(incarnation="2"), disconnect(RESTARTED_ADA))
    assert do(heartbeat(ADA), heartbeat(RESTARTED_ADA)) == []


def test_a_repeated_disconnect_of_an_old_incarnation_does_not_connect_the_departed_new_one(
    do: Driver,
) -> None:
    do(connect(incarnation="2"), disconnect(RESTARTED_ADA), disconnect(ADA))
    assert do(heartbeat(RESTARTED_ADA)) == []


def test_departed_workers_are_forgotten_after_a_minute(do: Driver) -> None:
    do(connect(), disconnect(ADA))
    assert do(after=59.0) == []
    assert len(do.state.workers._departed) == 1
    do(after=1.0)
    assert not do.state.workers._departed


# --- incarnations


def test_a_new_incarnation_replaces_the_old_one(do: Driver, held: c.Assign) -> None:
    out = do(connect(incarnation="2"))
    assert worker_events(out) == [
        (WorkerEventKind.LOST, "its process was restarted"),
        (WorkerEventKind.CONNECTED, ""),
    ]
    assert one(out, c.EndAttempt).outcome is Outcome.LOST
    assert one(out, c.Assign).worker == RESTARTED_ADA


def test_a_late_message_of_an_old_incarnation_does_not_replace_the_new_one(do: Driver) -> None:
    do(connect(), connect(incarnation="2"))
    assert do(heartbeat(ADA)) == []
    assert do(connect()) == []
    assert do.state.workers.workers["ada"].incarnation == "2"


def test_a_heartbeat_of_an_unknown_incarnation_is_ignored(do: Driver) -> None:
    do(connect())
    assert do(heartbeat(RESTARTED_ADA)) == []


def test_a_disconnect_of_an_old_incarnation_does_not_remove_the_new_one(do: Driver) -> None:
    do(connect(), connect(incarnation="2"))
    assert do(disconnect(ADA)) == []


# --- lost heartbeats


def test_no_worker_is_judged_while_heartbeats_are_lost(do: Driver, held: c.Assign) -> None:
    do(e.HeartbeatsLost())
    assert do(after=120.0) == []
    assert do(e.HeartbeatsRecovered()) == []
    assert do(after=14.0) == []
    assert worker_events(do(after=1.0)) == [(WorkerEventKind.SUSPECT, "heartbeats are late")]
    assert one(do(after=15.0), c.EndAttempt).outcome is Outcome.LOST


def test_messages_that_arrive_while_heartbeats_are_lost_count(do: Driver, held: c.Assign) -> None:
    do(e.HeartbeatsLost(), e.HeartbeatsLost())
    assert one(do(results(held)), c.EndAttempt).status is S.SUCCEEDED
    assert worker_events(do(disconnect(ADA))) == [(WorkerEventKind.DISCONNECTED, "")]


def test_the_time_in_which_the_manager_stalled_counts_against_no_worker(
    do: Driver, held: c.Assign
) -> None:
    do(after=10.0)
    assert do(paused=61.0) == []
    assert not worker_events(do(after=3.0))
    assert worker_events(do(after=2.0)) == [(WorkerEventKind.SUSPECT, "heartbeats are late")]
    assert worker_events(do(after=15.0)) == [(WorkerEventKind.LOST, "no heartbeat for 30 s")]


def test_a_manager_that_always_stalls_still_detects_a_lost_worker(
    do: Driver, held: c.Assign
) -> None:
    out = [command for _ in range(30) for command in do(paused=3.0)]
    assert [event for event, _ in worker_events(out)] == [
        WorkerEventKind.SUSPECT,
        WorkerEventKind.LOST,
    ]


def test_a_long_pause_without_workers_is_not_a_stall(do: Driver) -> None:
    do(submission(task()), paused=1000.0)
    do(connect(), paused=1000.0)
    assert do.state.workers.workers["ada"].last_seen == do.now


# --- verdicts


def test_verdicts_give_a_reason_for_each_worker_without_the_task() -> None:
    do = Driver(chance=0.0)
    do(connect("Ada", 3), submission(task(difficulty=3, max_attempts=5, type="ocr")))
    do(connect("bob", 5, slots=2), connect("cyd", 2), connect("eve", types=["gpu"]))
    do(heartbeat(profile("dan"), draining=True), heartbeat(profile("fay", 9, reserve=8)))
    tried = c.Assign(("default", "a"), "ocr", 1, profile("Ada", 3), 0.0)
    assert explain.verdicts(do.state, ("default", "a"))[0] == ("Ada", "has it: attempt 1")
    do(submission(task("x", 5), task("y", 5)), results(tried, Outcome.FAILED))
    assert explain.verdicts(do.state, ("default", "a")) == [
        ("Ada", "failed it before"),
        ("bob", "could do it; all of its 2 slots are taken"),
        ("cyd", "has skill 2 for it; it needs 3"),
        ("dan", "is leaving"),
        ("eve", "does not handle the type 'ocr'"),
        (
            "fay",
            "is reserved for tasks of difficulty 8 or more, until this one has waited for long",
        ),
    ]
    assert explain.verdicts(do.state, ("default", "nobody-knows")) == []


def test_verdicts_name_free_workers_and_silent_workers() -> None:
    do = Driver(expected_workers=3)
    do(connect("ada"), submission(task()))
    do(heartbeat(profile("bob")), after=15.0)
    assert explain.verdicts(do.state, ("default", "a")) == [
        ("ada", "has sent no heartbeat for some time"),
        ("bob", "could do it, and has a free slot"),
    ]


# --- invariants


def test_a_contradiction_in_the_state_breaks_an_invariant(do: Driver, held: c.Assign) -> None:
    worker = do.state.workers.workers["ada"]
    worker.attempts.clear()
    with pytest.raises(InvariantBroken, match="is not held by its worker"):
        validate(do.state)


def test_a_missed_match_breaks_an_invariant(do: Driver) -> None:
    do(connect(skill=1), submission(task(difficulty=9)))
    do.state.workers.workers["ada"].skills = do.state.workers.workers["ada"].skills._replace(
        skill=9
    )
    with pytest.raises(InvariantBroken, match="waits, a worker is free"):
        validate(do.state)


def test_a_heartbeat_of_an_unknown_worker_saves_its_profile(do: Driver) -> None:
    saved: list[WorkerProfile] = [save.profile for save in pick(do(heartbeat(ADA)), c.SaveWorker)]
    assert saved == [ADA]
