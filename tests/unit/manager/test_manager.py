"""The manager with real workers on a memory broker: every task ends once, whatever comes in between."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from pydantic import JsonValue

from skillq import topology
from skillq.clock import steady_clock
from skillq.errors import TransportError, Unreachable, UsageError
from skillq.messages import (
    Connect,
    Heartbeat,
    Lease,
    Outcome,
    Probe,
    Stop,
    Submission,
    Task,
    TaskAssignment,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerProfile,
)
from skillq.transport import Outgoing
from skillq.transport.base import QUEUE_HEADER, REASON_HEADER
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager import manager as module
from skillq_manager.core import commands as c
from skillq_manager.core.leases import LeasePolicy
from skillq_manager.core.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.senses import CONSUMED
from skillq_manager.store.base import Filter
from skillq_manager.store.memory import MemoryStore
from skillq_worker import Handlers
from skillq_worker.executor import HandlerExecutor
from tests.unit.manager.plant import QUICK, SHORT, Plant, tasks
from tests.unit.worker.boss import Fickle, until

SUCCEEDED = TaskStatus.SUCCEEDED


class Count:
    """An executor that counts what it does; `held` keeps it from ending."""

    types = None

    def __init__(self, *, held: bool = False) -> None:
        self.begun: list[str] = []
        self._go_on = asyncio.Event()
        if not held:
            self._go_on.set()

    async def execute(self, task: TaskAssignment) -> JsonValue:
        self.begun.append(task.id)
        await self._go_on.wait()
        return task.id

    def let_go(self) -> None:
        self._go_on.set()


# --- runs ------------------------------------------------------------------------------------


async def test_every_task_is_done_once_by_one_of_many_workers() -> None:
    async with Plant() as plant:
        counts = [Count() for _ in range(5)]
        for n, count in enumerate(counts):
            await plant.hand(f"w{n}", 5, count, slots=2)
        result = await plant.complete(*tasks(100))
    assert result.counts == {SUCCEEDED: 100}
    assert set(Counter(id for count in counts for id in count.begun).values()) == {1}
    assert all(count.begun for count in counts)


async def test_the_store_tells_the_same_as_the_events() -> None:
    async with Plant() as plant:
        await plant.hand("Ada", 5)
        result = await plant.complete(*tasks(5))
        rows = await plant.store.tasks(Filter(run="default"))
    assert {row.task.id: (row.status, row.worker) for row in rows} == {
        id: (event.status, event.worker) for id, event in result.tasks.items()
    }
    assert all(
        row.started_at and row.finished_at and row.started_at <= row.finished_at for row in rows
    )


async def test_a_task_that_is_begun_is_shown_running() -> None:
    async with Plant() as plant:
        count = Count(held=True)
        await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: count.begun)
        await until(lambda: plant.store._tasks["default", "0"].status is TaskStatus.RUNNING)
        count.let_go()
        await running


async def test_two_runs_at_once_do_not_mix() -> None:
    async with Plant() as plant:
        await plant.hand("Ada", 5, slots=3)
        one, two = await asyncio.gather(
            plant.complete(*tasks(20), run="Morning"),
            plant.complete(*tasks(10), Task(id="more", difficulty=1), run="Evening"),
        )
        assert sorted(plant.completed) == ["evening", "morning"]
    assert (one.counts, two.counts) == ({SUCCEEDED: 20}, {SUCCEEDED: 11})
    assert "more" not in one.tasks
    assert "more" in two.tasks


async def test_two_runs_whose_names_fall_together_are_refused() -> None:
    async with Plant() as plant:
        await plant.hand("Ada")
        await plant.complete(*tasks(1), run="Nightly 1")
        with pytest.raises(UsageError, match="'nightly-1' would be nightly-1 on the wire"):
            await plant.complete(*tasks(1), run="nightly-1")


async def test_what_is_submitted_again_is_known_and_done_no_second_time() -> None:
    async with Plant() as plant:
        count = Count()
        await plant.hand("Ada", 5, count)
        await plant.complete(*tasks(3))
        client = await plant.client()
        receipt = await client.submit("default", tasks(4))
        assert receipt is not None
        assert (receipt.accepted, receipt.known) == (1, 3)
        await until(lambda: len(count.begun) == 4)


async def test_nothing_is_assigned_before_the_expected_workers_are_there() -> None:
    async with Plant(expected_workers=2) as plant:
        senior = Count()
        await plant.hand("Senior", 9, senior)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: plant.manager.state.tasks.live)
        reason = plant.manager.reason(("default", "0"))
        assert reason == "waits for workers: 1 of 2 expected are there"
        await asyncio.sleep(0.1)  # that nothing happens takes time to see
        assert not senior.begun
        junior = Count()
        await plant.hand("Junior", 3, junior)
        await running
        assert (junior.begun, senior.begun) == (["0"], [])


async def test_with_stop_when_done_the_workers_leave_and_then_the_manager() -> None:
    async with Plant(stop_when_done=True) as plant:
        hands = [await plant.hand(f"w{n}") for n in range(3)]
        await plant.complete(*tasks(6))
        async with asyncio.timeout(5):
            await plant.running
            await asyncio.gather(*(hand.running for hand in hands))
        assert plant.completed == ["default"]
        assert not plant.manager.state.fleet.workers


async def test_a_manager_that_goes_on_serves_the_next_run() -> None:
    async with Plant() as plant:
        hand = await plant.hand("Ada")
        await plant.complete(*tasks(2), run="one")
        await plant.complete(*tasks(2), run="two")
        assert plant.completed == ["one", "two"]
        assert not plant.running.done()
        assert not hand.running.done()


async def test_a_worker_that_never_says_goodbye_does_not_keep_the_manager_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    async with Plant(stop_when_done=True) as plant:
        await plant.hand("Ada", 9)
        await plant.meet("Ghost", 10)
        await plant.complete(*tasks(1))
        async with asyncio.timeout(5):
            await plant.running


async def test_a_stop_of_long_ago_does_not_send_the_next_start_of_a_worker_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits in the queue of one that died before it came."""
    monkeypatch.setattr(module, "STOP_SECONDS", 0.1)
    async with Plant(stop_when_done=True) as first:
        victim = await first.hand("Victim", 3)
        await first.hand("Here", 9)
        await victim.die()
        await first.complete(*tasks(1, difficulty=9))
        await first.running
        async with Plant(broker=first.broker) as second:
            heir = await second.hand("Victim", 3)
            assert (await second.complete(*tasks(1))).has_succeeded
            assert not heir.running.done()


# --- readiness -------------------------------------------------------------------------------


async def test_a_manager_is_ready_once_each_of_its_consumers_has_brought_something() -> None:
    plant = Plant()
    ready = [plant.manager.is_ready]
    async with plant:
        ready.append(plant.manager.is_ready)
    ready.append(plant.manager.is_ready)
    assert ready == [False, True, False]


async def test_a_manager_that_waits_for_the_queues_of_another_is_not_ready() -> None:
    async with Plant() as first, MemoryTransport(first.broker) as way:
        store = MemoryStore()
        second = Manager(
            way,
            store,
            lambda: State(BestFit(), chance=lambda: 0.0, store=store.id),
            clock=steady_clock(),
            on_complete=first._on_complete,
        )
        running = asyncio.create_task(second.run())
        for _ in range(100):
            await asyncio.sleep(0.001)
            assert not second.is_ready
        first.manager.stop()
        await until(lambda: second.is_ready)
        assert second.is_leading
        second.stop()
        await running


async def test_a_manager_whose_consumers_bring_nothing_any_more_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Plant() as plant:
        assert plant.manager.is_ready
        monkeypatch.setattr("skillq_manager.senses.READY_SECONDS", 0.0)
        assert not plant.manager.is_ready


async def test_the_second_manager_of_a_broker_says_so_and_the_first_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TAKE_OVER_SECONDS", 0.0)
    async with Plant() as first:
        async with Plant(broker=first.broker) as second:
            with pytest.raises(UsageError) as caught:
                await second.running
        assert str(caught.value) == (
            "another manager consumes skillq.manager.heartbeats on this broker; "
            "stop it, or use another vhost"
        )
        await first.hand("Ada")
        assert (await first.complete(*tasks(1))).has_succeeded


async def test_a_manager_takes_over_when_its_predecessor_leaves() -> None:
    async with Plant() as first:
        second = Plant(broker=first.broker)
        await second._stack.enter_async_context(second._way)
        running = asyncio.create_task(second.manager.run())
        await asyncio.sleep(0.05)
        assert not second.manager.is_leading
    await until(lambda: second.manager.is_leading)
    second.manager.stop()
    await running
    await second._stack.aclose()


@pytest.mark.parametrize("queue", CONSUMED)
async def test_a_manager_whose_queue_another_one_has_decides_no_more_and_leaves_with_one_line(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STAND_BY_SECONDS", 0.05)
    monkeypatch.setattr(module, "TAKE_OVER_SECONDS", 0.2)
    broker = MemoryBroker()
    wire = Fickle(broker)
    async with Plant(broker=broker, transport=wire) as plant:
        wire.lose(queue)
        await plant.voice.consume(queue, prefetch=1, exclusive=True)
        await until(lambda: not plant.manager.is_leading)
        assert not any(one.live for one in wire._consumers if one._queue.name != CONSUMED[0])
        with pytest.raises(Unreachable):
            await plant.manager.submit(submission(*tasks(1)))
        with pytest.raises(UsageError) as caught:
            async with asyncio.timeout(5):
                await plant.running
    assert str(caught.value) == (
        f"another manager consumes {queue} on this broker; stop it, or use another vhost"
    )


async def test_a_manager_whose_own_dead_connection_held_its_queue_for_a_while_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STAND_BY_SECONDS", 0.05)
    broker = MemoryBroker()
    wire = Fickle(broker)
    async with Plant(broker=broker, transport=wire) as plant:
        count = Count(held=True)
        await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(3)))
        await until(lambda: count.begun)
        wire.lose(topology.MANAGER_HEARTBEATS)
        dead = await plant.voice.consume(topology.MANAGER_HEARTBEATS, prefetch=1, exclusive=True)
        await until(lambda: not plant.manager.is_leading)
        await dead.close()
        await until(lambda: plant.manager.is_leading)
        count.let_go()
        assert (await running).counts == {SUCCEEDED: 3}
        assert sorted(count.begun) == ["0", "1", "2"]


async def test_a_broker_that_comes_back_empty_gets_its_queues_and_a_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillq_manager.senses.PROBE_SECONDS", 0.02)
    monkeypatch.setattr("skillq_worker.worker.ATTEND_SECONDS", 0.02)
    async with Plant(leases=QUICK, lease=SHORT.model_copy(update={"dead_after": 5.0})) as plant:
        count = Count(held=True)
        hand = await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(3)))
        await until(lambda: count.begun)
        for queue in [*CONSUMED, topology.DEAD_LETTERS, topology.worker_queue("ada")]:
            plant.broker.delete_queue(queue)
        assert not hand.is_ready
        await until(lambda: hand.is_ready)
        count.let_go()
        assert (await running).counts == {SUCCEEDED: 3}
        assert (await plant.complete(*tasks(2), run="next")).has_succeeded


# --- what should not have come ---------------------------------------------------------------

NOBODY = WorkerProfile(name="nobody", title="Nobody", incarnation="1", skill=5)

_LONG = b'{"type": "' + b"x" * 200_000 + b'"}'

STRAYS: dict[str, tuple[str, str, bytes | Connect | Stop | Probe | Heartbeat, str]] = {
    "no json": (topology.SUBMISSIONS, "submit.x", b"\xff\xfe", "not a JSON object"),
    "a number": (topology.SUBMISSIONS, "submit.x", b"7", "not a JSON object"),
    "another version": (
        topology.REPORTS,
        "connect.nobody",
        b'{"type": "connect", "schema_version": 99}',
        "schema_version 99 is unknown; this release reads 1",
    ),
    "no type": (topology.REPORTS, "result.x", b"{}", "type"),
    "an unknown type": (topology.REPORTS, "result.x", b'{"type": "dance"}', "dance"),
    "a very long type": (topology.REPORTS, "result.x", _LONG, "xxx"),
    "a field is missing": (topology.REPORTS, "result.x", b'{"type": "result"}', "result.worker"),
    "another queue's": (
        topology.SUBMISSIONS,
        "submit.x",
        Connect(worker=NOBODY),
        "a connect message does not belong in skillq.manager.submissions",
    ),
    "an order": (
        topology.REPORTS,
        "result.x",
        Stop(incarnations=()),
        "a stop message does not belong in skillq.manager.reports",
    ),
    "a heartbeat among reports": (
        topology.REPORTS,
        "result.nobody",
        Heartbeat(worker=NOBODY),
        "does not belong in skillq.manager.reports",
    ),
    "another's name": (
        topology.REPORTS,
        "connect.somebody",
        Connect(worker=NOBODY),
        "a message of worker nobody came under the key connect.somebody",
    ),
    "a heartbeat under another's name": (
        topology.REPORTS,
        "heartbeat.somebody",
        Heartbeat(worker=NOBODY),
        "a message of worker nobody came under the key heartbeat.somebody",
    ),
    "tasks in a circle": (
        topology.SUBMISSIONS,
        "submit.x",
        b'{"type": "submission", "submission_id": "1", "run": "r", "run_title": "r",'
        b' "tasks": [{"id": "a", "difficulty": 1, "depends_on": ["a"]}]}',
        "depends on itself",
    ),
    "too large": (
        topology.SUBMISSIONS,
        "submit.x",
        b" " * 1_100_000,
        "at most 1048576 are allowed",
    ),
}


@pytest.mark.parametrize("name", STRAYS)
async def test_what_cannot_be_read_is_parked_with_its_reason_and_everything_goes_on(
    name: str,
) -> None:
    exchange, key, message, reason = STRAYS[name]
    async with Plant() as plant:
        await plant.say(exchange, key, message)
        await plant.hand("Ada")
        assert (await plant.complete(*tasks(2))).has_succeeded
        await until(lambda: plant.dead)
        (dead,) = plant.dead
        assert "nobody" not in plant.manager.state.fleet.workers
    assert reason in str(dead.headers[REASON_HEADER])
    assert str(dead.headers[QUEUE_HEADER]).startswith("skillq.manager.")
    assert len(str(dead.headers[REASON_HEADER])) <= 1000
    assert dead.body == (message if isinstance(message, bytes) else Outgoing.of(message).body)


async def test_a_message_that_cannot_be_parked_yet_is_parked_later() -> None:
    broker = MemoryBroker()
    wire = Wire(broker)
    wire.fails = lambda key: key == topology.MANAGER_REPORTS and wire.failed.count(key) < 3
    async with Plant(broker=broker, transport=wire) as plant:
        await plant.say(topology.REPORTS, "result.x", b"?")
        await until(lambda: plant.dead)
        assert len(plant.dead) == 1
        assert wire.failed.count(topology.MANAGER_REPORTS) == 3


class Wire(MemoryTransport):
    """A transport whose publishes fail as a test wants: `fails` is asked with each key."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, app_id="manager")
        self.fails: Callable[[str], bool] = lambda _: False
        self.failed: list[str] = []

    async def publish(
        self, exchange: str, key: str, message: Outgoing, *, mandatory: bool = True
    ) -> None:
        if self.fails(key):
            self.failed.append(key)
            raise TransportError("the test says no")
        await super().publish(exchange, key, message, mandatory=mandatory)


async def test_a_result_of_nobody_s_attempt_changes_nothing() -> None:
    async with Plant() as plant:
        count = Count(held=True)
        hand = await plant.hand("Ada", 5, count)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: count.begun)
        for incarnation, attempt, store in (
            ("another", 1, plant.store.id),
            (hand.profile.incarnation, 2, plant.store.id),
            (hand.profile.incarnation, 1, "another"),
        ):
            result = TaskResult(run="default", id="0", attempt=attempt, outcome=Outcome.FAILED)
            report = TaskResults(
                worker="ada", incarnation=incarnation, store=store, results=(result,)
            )
            await plant.say(topology.REPORTS, "result.ada", report)
        row = plant.store._tasks["default", "0"]
        await until(lambda: sum(not a.counted for a in row.attempts) == 3)
        assert not row.status.is_terminal
        count.let_go()
        assert (await running).counts == {SUCCEEDED: 1}


async def test_a_result_that_comes_twice_counts_once() -> None:
    async with Plant() as plant:
        hand = await plant.hand("Ada")
        await plant.complete(*tasks(1))
        again = TaskResult(run="default", id="0", attempt=1, outcome=Outcome.FAILED)
        report = TaskResults(
            worker="ada",
            incarnation=hand.profile.incarnation,
            store=plant.store.id,
            results=(again,),
        )
        await plant.say(topology.REPORTS, "result.ada", report)
        row = plant.store._tasks["default", "0"]
        await until(lambda: len(row.attempts) == 2)
        assert (row.status, row.attempts[1].counted) == (SUCCEEDED, False)


# --- workers that are lost, silent or unable -------------------------------------------------


async def test_the_task_of_a_worker_that_dies_is_done_by_another() -> None:
    async with Plant(leases=QUICK, lease=SHORT) as plant:
        doomed = Count(held=True)
        victim = await plant.hand("Victim", 3, doomed)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: doomed.begun)
        heir = Count()
        await plant.hand("Heir", 9, heir)
        await victim.die()
        result = await running
        assert result.counts == {SUCCEEDED: 1}
        assert result.tasks["0"].worker == "Heir"
        assert result.tasks["0"].attempt == 2
        assert heir.begun == ["0"]
        assert plant.entry(victim.profile) is None


async def test_a_worker_that_holds_more_than_one_message_can_name_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leases = LeasePolicy(resend_after=0.0, sweep_every=0.1)
    lease = Lease(heartbeat=0.2, suspect_after=5.0, dead_after=10.0)
    run = "r" * 60
    async with Plant(leases=leases, lease=lease) as plant:
        count = Count(held=True)
        hand = await plant.hand("Ada", 5, count, slots=10_000)
        many = [Task(id=f"{n:0>114}", difficulty=1) for n in range(7000)]
        client = await plant.client()
        await client.submit(run, many)
        await until(lambda: len(count.begun) == len(many))
        holds = plant.manager.state.fleet.workers["ada"].holds
        heard: list[Heartbeat] = []
        decided: list[c.Command] = []
        handle = plant.manager.state.handle

        def listen(events: Sequence[c.Event], now: float) -> list[c.Command]:
            heard.extend(event for event in events if isinstance(event, Heartbeat))
            commands = handle(events, now)
            decided.extend(commands)
            return commands

        monkeypatch.setattr(plant.manager.state, "handle", listen)
        await until(lambda: sum(event.upto is None for event in heard) >= 2)
        assert any(event.above for event in heard), "it comes in parts"
        wrong = [d for d in decided if isinstance(d, c.Resend | c.Abort | c.SaveWorker)]
        assert not wrong, "nothing is missing, nothing is a stranger's, and nobody is suspect"
        assert len(holds) == len(many)
        assert plant.entry(hand.profile) is not None
        count.let_go()
        await until(lambda: plant.completed)
    assert not plant.dead


async def test_the_task_of_a_worker_that_was_started_anew_is_given_out_at_once() -> None:
    async with Plant() as plant:  # with leases of half a minute
        doomed, heir = Count(held=True), Count()
        victim = await plant.hand("Ada", 5, doomed)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: doomed.begun)
        await victim.die()
        await plant.hand("Ada", 5, heir)
        assert (await running).counts == {SUCCEEDED: 1}
        assert heir.begun == ["0"]


async def test_a_task_that_kills_its_workers_is_given_up_on_and_the_fleet_lives() -> None:
    async with Plant(leases=QUICK, lease=SHORT) as plant:
        running = asyncio.create_task(plant.complete(*tasks(1)))
        for _ in range(3):
            doomed = Count(held=True)
            victim = await plant.hand("Ada", 5, doomed)
            await until(partial(getattr, doomed, "begun"))
            await victim.die()
        result = await running
        assert result.counts == {TaskStatus.DEAD_LETTERED: 1}
        await plant.hand("Bob")
        assert (await plant.complete(*tasks(1), run="next")).has_succeeded


async def test_what_a_leaving_worker_holds_is_given_to_another() -> None:
    async with Plant() as plant:
        count = Count(held=True)
        leaving = await plant.hand("Leaving", 3, count)
        running = asyncio.create_task(plant.complete(*tasks(3)))
        await until(lambda: count.begun)
        leaving.stop()
        heir = Count()
        await plant.hand("Heir", 9, heir)
        count.let_go()
        assert (await running).counts == {SUCCEEDED: 3}
        assert len(count.begun) + len(heir.begun) == 3


async def test_a_worker_that_drains_is_not_offered_its_tasks_again_and_again() -> None:
    """It has free slots and hands all back at once: until the manager knows, both would turn in a circle."""
    async with Plant(lease=Lease()) as plant:
        count = Count(held=True)
        leaving = await plant.hand("Leaving", 3, count, slots=3)
        first = asyncio.create_task(plant.complete(*tasks(1), run="first"))
        await until(lambda: count.begun)
        leaving.stop()
        second = asyncio.create_task(plant.complete(*tasks(1), run="second"))
        await until(lambda: plant.manager.state.fleet.workers["leaving"].draining)
        await asyncio.sleep(0.1)
        heir = Count()
        await plant.hand("Heir", 9, heir)
        assert (await second).counts == {SUCCEEDED: 1}
        assert heir.begun == ["0"]
        assert plant.store._tasks["second", "0"].attempt < 50
        count.let_go()
        assert (await first).counts == {SUCCEEDED: 1}


async def test_an_assignment_that_comes_back_is_given_out_again_once_the_queue_is_there() -> None:
    async with Plant() as plant:
        running = asyncio.create_task(plant.complete(*tasks(1)))
        await until(lambda: plant.manager.state.tasks.live)
        # It says that it consumes its queue, and there is none.
        ghost = await plant.meet("Ghost", 3)
        plant.broker.delete_queue(topology.worker_queue("ghost"))
        await until(lambda: plant.store._tasks["default", "0"].attempt >= 1)
        heir = Count()
        await plant.hand("Heir", 9, heir)
        result = await running
        assert result.counts == {SUCCEEDED: 1}
        assert result.tasks["0"].worker in {"Heir", ghost.title}


async def test_a_worker_whose_queue_was_deleted_gets_it_again_and_goes_on() -> None:
    async with Plant() as plant:
        count = Count()
        await plant.hand("Ada", 5, count)
        plant.broker.delete_queue(topology.worker_queue("ada"))
        result = await plant.complete(*tasks(3))
        assert result.counts == {SUCCEEDED: 3}
        assert sorted(count.begun) == ["0", "1", "2"]
        row = plant.store._tasks["default", "0"]
        assert row.attempts[0].outcome is Outcome.RETURNED


async def test_an_assignment_that_was_lost_on_the_way_is_sent_again() -> None:
    async with Plant(leases=QUICK, lease=SHORT) as plant:
        count = Count()
        hand = await plant.hand("Ada", 5, count)
        # A stranger takes it out of the queue, and the worker never sees it.
        plant.broker.delete_queue(topology.worker_queue("ada"))
        thief_queue = topology.Topology(
            exchanges=(topology.COMMANDS,),
            queues=(topology.Queue("thief"),),
            bindings=(topology.Binding(topology.COMMANDS, "assignment.ada", "thief"),),
        )
        await plant.voice.declare(thief_queue)
        running = asyncio.create_task(plant.complete(*tasks(1)))
        thief = await plant.voice.consume("thief", prefetch=10)
        stolen = await thief.batch()
        assert not count.begun
        await plant.voice.declare(topology.worker_topology("ada"))
        assert (await running).counts == {SUCCEEDED: 1}
        assert count.begun == ["0"]
        assert stolen
        assert plant.entry(hand.profile) is not None


async def test_an_unhandled_type_is_refused_and_given_to_a_worker_that_has_it() -> None:
    handlers = Handlers()
    handlers.task("ocr")(lambda: "read")
    others = Handlers()
    others.task("speech")(lambda: "heard")
    with HandlerExecutor(handlers) as able, HandlerExecutor(others) as unable:
        async with Plant() as plant:
            # It claims to take any, and fits better.
            await plant.hand("Braggart", 3, unable, types=None)
            await plant.hand("Reader", 9, able)
            await plant.hand("Listener", 9, unable)
            result = await plant.complete(
                Task(id="a", difficulty=1, type="ocr"), Task(id="b", difficulty=1, type="ocr")
            )
            assert result.counts == {SUCCEEDED: 2}
            assert {event.worker for event in result.tasks.values()} == {"Reader"}
            outcomes = [a.outcome for a in plant.store._tasks["default", "a"].attempts]
            assert outcomes == [Outcome.REFUSED, Outcome.SUCCEEDED]


async def test_a_task_that_nobody_can_do_waits_visibly_and_blocks_no_other() -> None:
    async with Plant() as plant:
        await plant.hand("Junior", 3)
        client = await plant.client()
        await client.submit("default", [Task(id="hard", difficulty=8, priority=100), *tasks(3)])
        await until(lambda: len(plant.manager.state.tasks.live) == 1)
        reason = plant.manager.reason(("default", "hard"))
        assert reason == "no worker can do it: it needs skill 8, the best has 3"
        await plant.hand("Senior", 9)
        await until(lambda: plant.completed)


# --- submissions by another way --------------------------------------------------------------


def submission(*of: Task) -> Submission:
    return Submission(submission_id="1", run="default", run_title="default", tasks=of)


async def test_a_submission_may_come_from_inside_and_is_answered() -> None:
    async with Plant() as plant:
        answer = await plant.manager.submit(submission(*tasks(2)))
        assert (answer.accepted, answer.known, answer.reason) == (2, 0, None)
        refused = await plant.manager.submit(
            submission(Task(id="x", difficulty=1, depends_on=("gone",)))
        )
        assert "depends on gone" in str(refused.reason)


async def test_a_submission_to_a_manager_that_has_left_is_told_so() -> None:
    async with Plant() as plant:
        plant.manager.stop()
        await plant.running
        async with asyncio.timeout(5):
            with pytest.raises(Unreachable, match="ask again"):
                await plant.manager.submit(submission(*tasks(1)))


async def test_a_manager_that_stops_tells_those_whose_submission_it_has_not_decided() -> None:
    plant = Plant()
    waiting = asyncio.create_task(plant.manager.submit(submission(*tasks(1))))
    plant.manager.stop()  # it leaves before its first round
    async with plant:
        async with asyncio.timeout(5):
            with pytest.raises(Unreachable, match="ask again"):
                await waiting


async def test_a_client_whose_manager_lost_its_store_has_its_run_done_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skillq.client._SILENCE_SECONDS", 0.1)
    async with Plant() as first:
        count = Count(held=True)
        hand = await first.hand("Ada", 5, count)
        running = asyncio.create_task(first.complete(*tasks(2)))
        await until(lambda: count.begun)
        first.manager.stop()
        await first.running
        async with Plant(broker=first.broker) as second:
            await until(lambda: second.entry(hand.profile) is not None)
            count.let_go()
            assert (await running).counts == {SUCCEEDED: 2}
            assert second.completed == ["default"]
