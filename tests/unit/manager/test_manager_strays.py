"""What should not have come to a manager is parked or passed over, and the run goes on."""

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
from tests.unit.manager.hands import Count
from tests.unit.manager.plant import Plant, tasks
from tests.unit.wire import Wire
from tests.unit.worker.boss import until

SUCCEEDED = TaskStatus.SUCCEEDED


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
        assert "nobody" not in plant.manager.state.workers.workers
    assert reason in str(dead.headers[REASON_HEADER])
    assert str(dead.headers[QUEUE_HEADER]).startswith("skillq.manager.")
    assert len(str(dead.headers[REASON_HEADER])) <= 1000
    assert dead.body == (
        message if isinstance(message, bytes) else Outgoing.from_message(message).body
    )


async def test_a_message_that_cannot_be_parked_yet_is_parked_later() -> None:
    broker = MemoryBroker()
    wire = Wire(broker)
    wire.fails = lambda key: key == topology.MANAGER_REPORTS and wire.failed.count(key) < 3
    async with Plant(broker=broker, transport=wire) as plant:
        await plant.say(topology.REPORTS, "result.x", b"?")
        await until(lambda: plant.dead)
        assert len(plant.dead) == 1
        assert wire.failed.count(topology.MANAGER_REPORTS) == 3


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
