"""Workers through `State.handle`: joining, heard of, silent, gone."""

import pytest

from skillq.messages import Lease, Outcome, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core import explain
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
from tests.unit.core.ada import ADA, HEIR, Kind, S, news

# --- joining


def test_a_worker_joins_by_its_connect_or_by_its_heartbeat(do: Driver) -> None:
    assert news(do(connect())) == [(Kind.CONNECTED, "")]
    assert news(do(heartbeat(profile("bob")))) == [(Kind.CONNECTED, "")]


def test_a_worker_that_is_not_ready_yet_gets_nothing(do: Driver) -> None:
    assert not pairs(do(connect(ready=False), submission(task())))


def test_a_worker_gets_no_more_than_it_has_slots(do: Driver) -> None:
    out = do(connect(slots=2), submission(*(task(id) for id in "abc")))
    assert [id for id, _ in pairs(out)] == ["a", "b"]


def test_nothing_is_assigned_before_the_expected_workers_are_there() -> None:
    do = Driver(expected_workers=2)
    assert not pairs(do(connect(), submission(task())))
    assert pairs(do(connect("bob", 3))) == [("a", "bob")]


def test_afterwards_workers_come_and_go() -> None:
    do = Driver(expected_workers=2)
    do(connect(), connect("bob"))
    do(disconnect(profile("bob")))
    assert pairs(do(submission(task()))) == [("a", "ada")]


def test_a_worker_that_changes_its_profile_is_matched_by_the_new_one(do: Driver) -> None:
    do(connect(skill=1), submission(task(difficulty=9)))
    out = do(heartbeat(profile(skill=9)))
    assert news(out) == [(Kind.CONNECTED, "its profile has changed")]
    assert pairs(out) == [("a", "ada")]
    assert news(do(heartbeat(profile(skill=9)))) == []


# --- silence


def test_a_silent_worker_is_suspect_once_and_gets_nothing_new(do: Driver) -> None:
    do(connect())
    assert news(do(after=15.0)) == [(Kind.SUSPECT, "heartbeats are late")]
    assert do(after=1.0) == []
    assert not pairs(do(submission(task())))


def test_each_worker_is_judged_by_the_lease_that_it_says_it_goes_by(do: Driver) -> None:
    patient = Lease(heartbeat=20.0, suspect_after=60.0, dead_after=120.0)
    do(connect("ada"), connect("bob", lease=patient))
    assert {save.profile.name for save in pick(do(after=30.0), c.SaveWorker)} == {"ada"}
    assert news(do(after=30.0)) == [(Kind.SUSPECT, "heartbeats are late")]
    assert news(do(after=60.0)) == [(Kind.LOST, "no heartbeat for 120 s")]


def test_a_suspect_that_is_heard_of_again_goes_on(do: Driver) -> None:
    do(connect(), submission(task("a")))
    do(submission(task("b")), after=15.0)
    out = do(heartbeat(ADA))
    assert news(out) == [(Kind.CONNECTED, "its heartbeats are back")]


def test_a_suspect_with_a_new_profile_is_told_once(do: Driver) -> None:
    do(connect())
    do(after=15.0)
    assert len(news(do(heartbeat(profile(skill=9))))) == 1


def test_a_dead_worker_loses_its_attempts_to_others(do: Driver, held: c.Assign) -> None:
    do(heartbeat(profile("bob")), after=29.0)
    out = do(after=1.0)
    assert news(out) == [(Kind.LOST, "no heartbeat for 30 s")]
    end = one(out, c.EndAttempt)
    assert (end.outcome, end.status) == (Outcome.LOST, S.READY)
    assert end.reason == "worker ada: no heartbeat for 30 s"
    assert pairs(out) == [("a", "bob")]


def test_a_task_that_kills_its_workers_does_not_kill_the_fleet(do: Driver, held: c.Assign) -> None:
    do(connect(incarnation="2"))
    do(connect(incarnation="3"))
    assert pairs(do(after=4.0)) == [("a", "ada")]
    out = do(connect(incarnation="4"))
    assert one(out, c.EndAttempt).status is S.DEAD_LETTERED
    assert do.state.is_idle


def test_silence_is_judged_once_per_sweep(do: Driver) -> None:
    assert do.state.next_deadline() is None
    do(connect())
    assert do.state.next_deadline() == do.now + 1.0
    do(after=0.5)
    assert do.state.next_deadline() == do.now + 0.5


# --- leaving


def test_a_worker_that_leaves_hands_its_attempts_back(do: Driver, held: c.Assign) -> None:
    out = do(connect("bob"), disconnect(ADA, "drained"))
    assert (Kind.DISCONNECTED, "drained") in news(out)
    end = one(out, c.EndAttempt)
    assert (end.outcome, end.reason) == (Outcome.RETURNED, "worker ada: drained")
    assert pairs(out) == [("a", "bob")]


def test_a_departed_worker_is_not_brought_back_by_what_it_said_before(do: Driver) -> None:
    do(connect(), disconnect(ADA))
    assert do(heartbeat(ADA), connect(), disconnect(ADA)) == []


def test_nor_is_one_whose_heir_has_left_as_well(do: Driver) -> None:
    do(connect(), connect(incarnation="2"), disconnect(HEIR))
    assert do(heartbeat(ADA), heartbeat(HEIR)) == []


def test_nor_is_an_heir_by_the_doubled_goodbye_of_its_dead_namesake(do: Driver) -> None:
    do(connect(incarnation="2"), disconnect(HEIR), disconnect(ADA))
    assert do(heartbeat(HEIR)) == []


def test_the_departed_are_not_remembered_for_ever(do: Driver) -> None:
    do(connect(), disconnect(ADA))
    assert do(after=59.0) == []
    assert len(do.state.workers._departed) == 1
    do(after=1.0)
    assert not do.state.workers._departed


# --- namesakes


def test_a_new_incarnation_takes_the_place_of_the_old(do: Driver, held: c.Assign) -> None:
    out = do(connect(incarnation="2"))
    assert news(out) == [(Kind.LOST, "its process was restarted"), (Kind.CONNECTED, "")]
    assert one(out, c.EndAttempt).outcome is Outcome.LOST
    assert one(out, c.Assign).worker == HEIR


def test_a_late_message_of_the_dead_does_not_oust_the_heir(do: Driver) -> None:
    do(connect(), connect(incarnation="2"))
    assert do(heartbeat(ADA)) == []
    assert do(connect()) == []
    assert do.state.workers.workers["ada"].incarnation == "2"


def test_a_heartbeat_of_an_unknown_namesake_is_ignored(do: Driver) -> None:
    do(connect())
    assert do(heartbeat(HEIR)) == []


def test_a_goodbye_of_a_dead_namesake_does_not_take_the_heir_away(do: Driver) -> None:
    do(connect(), connect(incarnation="2"))
    assert do(disconnect(ADA)) == []


# --- a manager that cannot hear


def test_nobody_is_judged_while_the_manager_cannot_hear(do: Driver, held: c.Assign) -> None:
    do(e.HeartbeatsLost())
    assert do(after=120.0) == []
    assert do(e.HeartbeatsRecovered()) == []
    assert do(after=14.0) == []
    assert news(do(after=1.0)) == [(Kind.SUSPECT, "heartbeats are late")]
    assert one(do(after=15.0), c.EndAttempt).outcome is Outcome.LOST


def test_what_it_hears_all_the_same_counts(do: Driver, held: c.Assign) -> None:
    do(e.HeartbeatsLost(), e.HeartbeatsLost())
    assert one(do(results(held)), c.EndAttempt).status is S.SUCCEEDED
    assert news(do(disconnect(ADA))) == [(Kind.DISCONNECTED, "")]


def test_a_manager_that_was_held_up_holds_that_time_against_nobody(
    do: Driver, held: c.Assign
) -> None:
    do(after=10.0)
    assert do(paused=61.0) == []
    assert not news(do(after=3.0))
    assert news(do(after=2.0)) == [(Kind.SUSPECT, "heartbeats are late")]
    assert news(do(after=15.0)) == [(Kind.LOST, "no heartbeat for 30 s")]


def test_nor_does_one_that_is_always_slow_trust_the_dead_for_ever(
    do: Driver, held: c.Assign
) -> None:
    out = [command for _ in range(30) for command in do(paused=3.0)]
    assert [kind for kind, _ in news(out)] == [Kind.SUSPECT, Kind.LOST]


def test_a_manager_without_workers_was_not_held_up(do: Driver) -> None:
    do(submission(task()), paused=1000.0)
    do(connect(), paused=1000.0)
    assert do.state.workers.workers["ada"].last_seen == do.now


# --- worker by worker


def test_each_worker_has_its_reason_why_it_does_not_have_the_task() -> None:
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


def test_a_task_that_is_held_back_has_free_workers_and_silent_ones() -> None:
    do = Driver(expected_workers=3)
    do(connect("ada"), submission(task()))
    do(heartbeat(profile("bob")), after=15.0)
    assert explain.verdicts(do.state, ("default", "a")) == [
        ("ada", "has sent no heartbeat for some time"),
        ("bob", "could do it, and has a free slot"),
    ]


# --- the invariants themselves


def test_a_state_that_contradicts_itself_is_found_out(do: Driver, held: c.Assign) -> None:
    worker = do.state.workers.workers["ada"]
    worker.attempts.clear()
    with pytest.raises(InvariantBroken, match="is not held by its worker"):
        validate(do.state)


def test_a_free_worker_next_to_a_task_it_can_do_is_found_out(do: Driver) -> None:
    do(connect(skill=1), submission(task(difficulty=9)))
    do.state.workers.workers["ada"].skills = do.state.workers.workers["ada"].skills._replace(
        skill=9
    )
    with pytest.raises(InvariantBroken, match="waits, a worker is free"):
        validate(do.state)


def test_a_heartbeat_says_who_a_worker_is(do: Driver) -> None:
    seen: list[WorkerProfile] = [save.profile for save in pick(do(heartbeat(ADA)), c.SaveWorker)]
    assert seen == [ADA]
