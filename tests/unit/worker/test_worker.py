"""The worker on a memory broker: it connects, works and leaves; each result arrives once."""

import asyncio
import threading

import pytest

from skillq import timings, topology
from skillq.errors import UsageError
from skillq.messages import (
    Connect,
    Heartbeat,
    Outcome,
    Probe,
    Progress,
    Stop,
    encode,
)
from skillq.transport import Outgoing
from skillq.transport.dead_letters import QUEUE_HEADER, REASON_HEADER
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_worker import Handlers
from skillq_worker.execution.executor import HandlerExecutor
from skillq_worker.execution.simulation import Simulation
from skillq_worker.worker import Worker
from tests.support.fake_executor import FakeExecutor
from tests.support.fake_manager import (
    LONG_SECONDS,
    FakeManager,
    assignment,
    attempt_ref,
    running_worker,
    worker_profile,
)
from tests.support.fault_injecting_transport import FaultInjectingTransport, QueueLosingTransport
from tests.support.virtual_time import loop_clock
from tests.support.waiting import until_async

# --- connecting ------------------------------------------------------------------------------


async def test_a_worker_asks_for_its_queue_until_it_exists_and_then_reports_that_it_is_ready(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with MemoryTransport(manager.broker) as transport:
        worker = Worker(transport, manager.worker, executor, clock=loop_clock(), grace=0)
        running = asyncio.create_task(worker.run())
        connects = await manager.receive(Connect, 2)
        assert not any(connect.ready for connect in connects)
        assert not worker.is_ready
        await manager.declare_queue()
        await until_async(lambda: worker.is_ready, "the worker should be ready")
        await until_async(
            lambda: manager.received(Connect)[-1].ready, "the worker should report that it is ready"
        )
        assert manager.received(Connect)[-1].worker == manager.worker
        worker.stop()
        await running


async def test_a_worker_that_is_stopped_while_it_waits_for_a_manager_leaves_at_once(
    executor: FakeExecutor,
) -> None:
    async with MemoryTransport(MemoryBroker()) as transport:  # there is no manager
        worker = Worker(transport, worker_profile(), executor, clock=loop_clock(), grace=30)
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0)
        worker.stop()
        async with asyncio.timeout(1):
            await running
        assert not [t for t in asyncio.all_tasks() if t.get_name() in {"attach", "stop"}]


async def test_a_second_worker_with_the_same_name_leaves_with_an_error_and_the_first_goes_on(
    manager: FakeManager, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "TAKE_OVER_SECONDS", 0.2)
    async with running_worker(manager, executor):
        async with MemoryTransport(manager.broker) as transport:
            other_profile = worker_profile("Ada", name="ada")
            second = Worker(transport, other_profile, executor, clock=loop_clock(), grace=0)
            with pytest.raises(UsageError) as caught:
                await second.run()
        assert str(caught.value) == (
            "a worker named 'Ada' is connected already; choose another --name"
        )
        assert all(connect.worker == manager.worker for connect in manager.received(Connect))
        await manager.assign(assignment())
        await executor.end()
        assert (await manager.receive_results(1))[0].outcome is Outcome.SUCCEEDED


async def test_a_worker_takes_over_when_the_worker_with_its_name_leaves_in_time(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    async with MemoryTransport(manager.broker) as transport:
        second = Worker(
            transport, worker_profile("Ada", name="ada"), executor, clock=loop_clock(), grace=0
        )
        async with running_worker(manager, executor):
            running = asyncio.create_task(second.run())
            await asyncio.sleep(0.1)
            assert not second.is_ready
        await until_async(lambda: second.is_ready, "the second worker should be ready")
        second.stop()
        await running


async def test_a_worker_whose_queue_was_deleted_is_not_ready_and_asks_for_it_until_it_exists(
    manager: FakeManager, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "QUEUE_CHECK_SECONDS", 0.01)
    async with running_worker(manager, executor) as (worker, _):
        ready = [worker.is_ready]
        earlier = len(manager.received(Connect))
        manager.broker.delete_queue(topology.worker_queue("ada"))
        ready.append(worker.is_ready)
        connects = (await manager.receive(Connect, earlier + 2))[earlier:]
        assert not any(connect.ready for connect in connects)
        ready.append(worker.is_ready)
        await manager.declare_queue()
        await until_async(lambda: worker.is_ready, "the worker should be ready")
        assert ready == [True, False, False]
        await manager.assign(assignment())
        await executor.end()
        assert (await manager.receive_results(1))[0].outcome is Outcome.SUCCEEDED


async def test_a_worker_goes_on_after_its_own_dead_connection_held_its_queue(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    transport = QueueLosingTransport(manager.broker)
    async with running_worker(manager, executor, transport=transport) as (worker, _):
        await manager.assign(assignment())
        await until_async(lambda: executor.started, "an attempt should start")
        transport.lose_queue(topology.worker_queue("ada"))
        dead_connection = await manager.transport.consume(
            topology.worker_queue("ada"), prefetch=1, exclusive=True
        )
        await until_async(lambda: not worker.is_ready, "the worker should not be ready")
        await dead_connection.close()
        await until_async(lambda: worker.is_ready, "the worker should be ready")
        await manager.assign(assignment("b"))
        executor.end_all()
        assert {result.id for result in await manager.receive_results(2)} == {"a", "b"}


async def test_a_worker_whose_queue_was_taken_by_another_of_its_name_leaves_with_an_error(
    manager: FakeManager, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "TAKE_OVER_SECONDS", 0.2)
    await manager.declare_queue()
    async with QueueLosingTransport(manager.broker) as transport:
        first = Worker(transport, manager.worker, executor, clock=loop_clock(), grace=0)
        running = asyncio.create_task(first.run())
        await until_async(lambda: first.is_ready, "the worker should be ready")
        transport.lose_queue(topology.worker_queue("ada"))
        namesake = await manager.transport.consume(
            topology.worker_queue("ada"), prefetch=1, exclusive=True
        )
        with pytest.raises(UsageError) as caught:
            async with asyncio.timeout(5):
                await running
        assert not first.is_ready
        assert namesake.live
    assert str(caught.value) == "a worker named 'Ada' is connected already; choose another --name"


# --- unreadable and misdirected messages -------------------------------------------------------

UNREADABLE = {
    "no json": (b"hello", "not a JSON object"),
    "another version": (
        b'{"type": "stop", "schema_version": 7}',
        "schema_version 7 is unknown; this release reads 1",
    ),
    "an unknown type": (b'{"type": "dance"}', "dance"),
    "a very long type": (b'{"type": "' + b"x" * 200_000 + b'"}', "xxx"),
    "a field is missing": (b'{"type": "cancel", "worker": "ada"}', "cancel.incarnation"),
    "another queue": (
        Outgoing.from_message(Probe()).body,
        "a probe message does not belong in a worker's queue",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_message_is_dead_lettered_with_its_reason_and_work_goes_on(
    manager: FakeManager, executor: FakeExecutor, name: str
) -> None:
    body, reason = UNREADABLE[name]
    async with running_worker(manager, executor):
        message = Outgoing(body, "stray", {"mine": "kept"}, message_id="7")
        await manager.transport.publish(topology.COMMANDS, "cancel.ada", message)
        await manager.assign(assignment())
        await executor.end()
        await manager.receive_results(1)
        (dead,) = manager.unreadable
    assert (dead.body, dead.message_id, dead.headers["mine"]) == (body, "7", "kept")
    assert reason in str(dead.headers[REASON_HEADER])
    assert len(str(dead.headers[REASON_HEADER])) <= 1000
    assert dead.headers[QUEUE_HEADER] == "skillq.worker.ada"


async def test_dead_lettering_an_unreadable_message_is_tried_again_until_it_works(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    transport = FaultInjectingTransport(manager.broker)
    async with running_worker(manager, executor, transport=transport):
        transport.should_fail = lambda key: (
            key == "skillq.worker.ada" and len(transport.failed_keys) < 3
        )
        await manager.transport.publish(topology.COMMANDS, "stop.all", Outgoing(b"?", "stray"))
        await until_async(lambda: manager.unreadable, "the message should be dead-lettered")
        assert len(manager.unreadable) == 1


async def test_a_stop_or_cancel_for_another_incarnation_or_store_is_ignored(
    manager: FakeManager, executor: FakeExecutor
) -> None:
    """A stop message may wait in the queue for minutes, until the next worker of the name starts."""
    async with running_worker(manager, executor):
        await manager.stop(incarnations=("of-somebody-else",))
        await manager.cancel(attempt_ref(), store="old")
        await manager.assign(assignment())
        await until_async(lambda: executor.running, "an attempt should run")
        await manager.cancel(attempt_ref(), store="old")
        await manager.assign(assignment("b"))
        await manager.receive(Heartbeat)
        assert executor.running


async def test_unknown_fields_are_ignored(manager: FakeManager, executor: FakeExecutor) -> None:
    """Services of different releases work together."""
    async with running_worker(manager, executor) as (_, running):
        stop = Stop(incarnations=(manager.worker.incarnation,), mode="now")
        newer = Outgoing(encode(stop)[:-1] + b', "soon": true}', "stop")
        await manager.transport.publish(topology.COMMANDS, "stop.all", newer)
        await running
    assert not manager.unreadable


# --- heartbeats ------------------------------------------------------------------------------


async def test_heartbeats_report_the_profile_the_attempts_and_the_free_slots(
    executor: FakeExecutor,
) -> None:
    async with FakeManager(worker_profile(slots=3)) as manager, running_worker(manager, executor):
        await manager.assign(assignment())
        await until_async(
            lambda: manager.received(Heartbeat) and manager.received(Heartbeat)[-1].holds,
            "a heartbeat should hold an attempt",
        )
        last = manager.received(Heartbeat)[-1]
        assert (last.worker, last.holds, last.free_slots, last.draining) == (
            manager.worker,
            (attempt_ref(),),
            2,
            False,
        )
        executor.end_all()


async def test_a_lost_heartbeat_ends_nothing(manager: FakeManager, executor: FakeExecutor) -> None:
    transport = FaultInjectingTransport(manager.broker)
    async with running_worker(manager, executor, transport=transport):
        transport.should_fail = lambda key: (
            key.startswith("heartbeat") and len(transport.failed_keys) < 3
        )
        await manager.receive(Heartbeat)
        assert len(transport.failed_keys) == 3


@pytest.mark.parametrize("stop_fields", [{"mode": "now"}, {"mode": "drain"}])
async def test_heartbeats_and_stop_messages_work_while_a_handler_blocks_its_loop(
    manager: FakeManager, stop_fields: dict[str, str]
) -> None:
    handlers = Handlers()
    may_end = threading.Event()

    @handlers.task
    async def block() -> str:
        may_end.wait(LONG_SECONDS)  # what a user should not do
        return "at last"

    profile = manager.worker.model_copy(update={"types": ("block",), "slots": 2})
    manager.worker = profile
    with HandlerExecutor(handlers) as executor:
        try:
            async with running_worker(manager, executor, grace=20.0) as (_, running):
                await manager.assign(assignment(task_type="block"))
                await manager.receive(Progress)
                before = len(manager.received(Heartbeat))
                await until_async(
                    lambda: len(manager.received(Heartbeat)) >= before + 5,
                    "five more heartbeats should arrive",
                )
                await manager.stop(**stop_fields)
                if stop_fields["mode"] == "drain":
                    await until_async(
                        lambda: any(
                            heartbeat.draining for heartbeat in manager.received(Heartbeat)
                        ),
                        "a heartbeat should report that the worker drains",
                    )
                    assert not running.done()
                    may_end.set()
                async with asyncio.timeout(LONG_SECONDS / 2):
                    await running
        finally:
            may_end.set()
    if stop_fields["mode"] == "now":
        assert not manager.results
    else:
        assert manager.results[0].output == "at last"


# --- the simulation --------------------------------------------------------------------------


async def test_simulated_work_takes_difficulty_by_priority_and_fails_without_the_skill(
    manager: FakeManager,
) -> None:
    async with running_worker(manager, Simulation(manager.worker, 0.01)):
        await manager.assign(
            assignment("well", difficulty=5, dependencies={"x": 1}),
            assignment("urgent", difficulty=5, priority=5),
            assignment("hard", difficulty=6),
            assignment("special", requires=["gpu"]),
        )
        await manager.receive_results(4)
    ended = {result.id: result for result in manager.results}
    assert ended["well"].output == {"seconds": 0.05, "inputs": ["x"]}
    assert ended["urgent"].output == {"seconds": 0.01, "inputs": []}
    assert ended["hard"].error == "skill 5 is below difficulty 6"
    assert ended["special"].error == "specialty gpu is missing"


async def test_a_specialty_adds_two_to_the_skill(manager: FakeManager) -> None:
    expert = worker_profile("Ada", name="ada", specialties=["ocr"])
    manager.worker = expert
    async with running_worker(manager, Simulation(expert, 0)):
        await manager.assign(assignment("a", difficulty=7, task_type="ocr"))
        await manager.assign(assignment("b", difficulty=8, task_type="ocr"))
        await manager.assign(assignment("c", difficulty=6, task_type="speech"))
        await manager.receive_results(3)
    assert manager.outcomes == {
        "a": Outcome.SUCCEEDED,
        "b": Outcome.FAILED,
        "c": Outcome.FAILED,
    }
