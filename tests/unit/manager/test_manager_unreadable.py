"""Messages that a manager cannot read or use are dead-lettered or ignored, and the run goes on."""

import asyncio

import pytest

from skillq import topology
from skillq.messages import (
    Connect,
    Heartbeat,
    Outcome,
    Probe,
    Stop,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerProfile,
)
from skillq.transport import Outgoing
from skillq.transport.dead_letters import QUEUE_HEADER, REASON_HEADER
from skillq.transport.memory import MemoryBroker
from tests.support.fake_executor import FakeExecutor
from tests.support.fault_injecting_transport import FaultInjectingTransport
from tests.support.manager_harness import ManagerHarness, simple_tasks
from tests.support.waiting import until_async

SUCCEEDED = TaskStatus.SUCCEEDED


STRANGER = WorkerProfile(name="nobody", title="Nobody", incarnation="1", skill=5)

_LONG = b'{"type": "' + b"x" * 200_000 + b'"}'

UNREADABLE: dict[str, tuple[str, str, bytes | Connect | Stop | Probe | Heartbeat, str]] = {
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
        Connect(worker=STRANGER),
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
        Heartbeat(worker=STRANGER),
        "does not belong in skillq.manager.reports",
    ),
    "another's name": (
        topology.REPORTS,
        "connect.somebody",
        Connect(worker=STRANGER),
        "a message of worker nobody came under the key connect.somebody",
    ),
    "a heartbeat under another's name": (
        topology.REPORTS,
        "heartbeat.somebody",
        Heartbeat(worker=STRANGER),
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


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_message_is_dead_lettered_with_its_reason_and_work_goes_on(
    name: str,
) -> None:
    exchange, key, message, reason = UNREADABLE[name]
    async with ManagerHarness() as harness:
        await harness.publish(exchange, key, message)
        await harness.connect_worker("Ada")
        assert (await harness.complete(*simple_tasks(2))).has_succeeded
        await until_async(lambda: harness.unreadable, "the message should be dead-lettered")
        (dead,) = harness.unreadable
        assert "nobody" not in harness.manager.state.workers.workers
    assert reason in str(dead.headers[REASON_HEADER])
    assert str(dead.headers[QUEUE_HEADER]).startswith("skillq.manager.")
    assert len(str(dead.headers[REASON_HEADER])) <= 1000
    assert dead.body == (
        message if isinstance(message, bytes) else Outgoing.from_message(message).body
    )


async def test_dead_lettering_an_unreadable_message_is_tried_again_until_it_works() -> None:
    broker = MemoryBroker()
    transport = FaultInjectingTransport(broker)
    transport.should_fail = lambda key: (
        key == topology.MANAGER_REPORTS and transport.failed_keys.count(key) < 3
    )
    async with ManagerHarness(broker=broker, manager_transport=transport) as harness:
        await harness.publish(topology.REPORTS, "result.x", b"?")
        await until_async(lambda: harness.unreadable, "the message should be dead-lettered")
        assert len(harness.unreadable) == 1
        assert transport.failed_keys.count(topology.MANAGER_REPORTS) == 3


async def test_a_stale_result_changes_nothing() -> None:
    async with ManagerHarness() as harness:
        executor = FakeExecutor(hold=True)
        worker = await harness.connect_worker("Ada", 5, executor)
        running = asyncio.create_task(harness.complete(*simple_tasks(1)))
        await until_async(lambda: executor.started_ids, "an attempt should start")
        for incarnation, attempt, store in (
            ("another", 1, harness.store.id),
            (worker.profile.incarnation, 2, harness.store.id),
            (worker.profile.incarnation, 1, "another"),
        ):
            result = TaskResult(run="default", id="0", attempt=attempt, outcome=Outcome.FAILED)
            report = TaskResults(
                worker="ada", incarnation=incarnation, store=store, results=(result,)
            )
            await harness.report("result.ada", report)
        row = harness.task_row("0")
        await until_async(
            lambda: sum(not a.counted for a in row.attempts) == 3,
            "three stale results should be recorded",
        )
        assert not row.status.is_terminal
        executor.end_all()
        assert (await running).counts == {SUCCEEDED: 1}


async def test_a_result_that_is_delivered_twice_counts_once() -> None:
    async with ManagerHarness() as harness:
        worker = await harness.connect_worker("Ada")
        await harness.complete(*simple_tasks(1))
        duplicate = TaskResult(run="default", id="0", attempt=1, outcome=Outcome.FAILED)
        report = TaskResults(
            worker="ada",
            incarnation=worker.profile.incarnation,
            store=harness.store.id,
            results=(duplicate,),
        )
        await harness.report("result.ada", report)
        row = harness.task_row("0")
        await until_async(lambda: len(row.attempts) == 2, "the stale result should be recorded")
        assert (row.status, row.attempts[1].counted) == (SUCCEEDED, False)
