"""A message with undecodable properties or key is dead-lettered and blocks no other message."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import cast

import aiormq
import pytest
from aiormq import Channel
from aiormq.abc import ChannelFrame

from skillq import topology
from skillq.client import Client
from skillq.messages import Task, WorkerProfile
from skillq.runtime.clock import steady_clock
from skillq.transport import Consumer, Delivery, Outgoing
from skillq.transport.dead_letters import MAX_KEPT_HEADERS, QUEUE_HEADER, REASON_HEADER
from skillq.transport.rabbitmq import RabbitTransport
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.memory import MemoryStore
from skillq_worker.execution.simulation import Simulation
from skillq_worker.worker import Worker

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

SECONDS = 30.0
BODY = b'{"type": "probe"}'  # a readable body: only the properties are wrong

# The bit of each property in the flags, in the order of the properties.
_FLAGS = {"headers": 13, "message_id": 7, "timestamp": 6, "type": 5, "app_id": 3}


def short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def table(*fields: bytes) -> bytes:
    return struct.pack(">I", len(joined := b"".join(fields))) + joined


def properties(**raw: bytes) -> bytes:
    raw_properties = {name: raw[name] for name in _FLAGS if name in raw}
    return struct.pack(">H", sum(1 << _FLAGS[name] for name in raw_properties)) + b"".join(
        raw_properties.values()
    )


def nested(levels: int) -> bytes:
    value = b"V"
    for _ in range(levels):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


TOO_LATE = struct.pack(">q", 2**63 - 1)
# Name -> (properties that are sent, part of the reason).
DEFECTS = {
    "type": (properties(type=short(b"\xff\xfe")), r"its type '\xff\xfe' is not UTF-8"),
    "app_id": (properties(app_id=short(b"\xff")), r"its app_id '\xff' is not UTF-8"),
    "message_id": (properties(message_id=short(b"\xc3" * 255)), "its message_id"),
    "header key": (properties(headers=table(short(b"\xff"), b"t\x01")), "its headers cannot"),
    "header time": (properties(headers=table(short(b"a"), b"T", TOO_LATE)), "its headers cannot"),
    "nested headers": (
        properties(headers=table(short(b"a"), nested(5000)), type=short(b"result")),
        "its headers cannot be decoded",
    ),
    "timestamp": (
        properties(timestamp=TOO_LATE),
        "its timestamp 9223372036854775807 is out of range",
    ),
    "all of them": (
        properties(
            headers=table(short(b"\xff"), b"t\x01"),
            message_id=short(b"\xff"),
            timestamp=TOO_LATE,
            type=short(b"\xff"),
            app_id=short(b"\xff"),
        ),
        "; its timestamp",
    ),
}


class RawPublisher:
    """Publish messages with raw properties, which no library would send."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def publish(
        self, exchange: str, key: bytes, raw_properties: bytes, body: bytes = BODY
    ) -> None:
        connection = await aiormq.connect(self._url)
        channel = await connection.channel()
        method = struct.pack(">IH", 0x003C0028, 0) + short(exchange.encode()) + short(key) + b"\0"
        header = struct.pack(">HHQ", 60, 0, len(body)) + raw_properties
        frames = ((1, method), (2, header), (3, body))
        payload = b"".join(
            struct.pack(">BHI", kind, channel.number, len(raw)) + raw + b"\xce"
            for kind, raw in frames
        )
        await cast(Channel, channel).write_queue.put(ChannelFrame(payload, should_close=False))
        await channel.basic_qos(prefetch_count=1)  # the reply shows that the broker has the message
        await connection.close()


@pytest.fixture
async def transport(broker_url: str) -> AsyncIterator[RabbitTransport]:
    async with RabbitTransport(broker_url, app_id="tests", connection_name="tests") as transport:
        await transport.declare(topology.MANAGER)
        await transport.declare(topology.worker_topology("ada"))
        yield transport


@pytest.fixture
def raw_publisher(broker_url: str) -> RawPublisher:
    return RawPublisher(broker_url)


async def receive(consumer: Consumer, count: int) -> list[Delivery]:
    received: list[Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(received) < count:
            received += await consumer.batch()
    return received


ROUTES = [
    (topology.REPORTS, b"result.ada", topology.MANAGER_REPORTS),
    (topology.COMMANDS, b"assignment.ada", topology.worker_queue("ada")),
]


@pytest.mark.parametrize("route", ROUTES, ids=["quorum", "classic"])
@pytest.mark.parametrize("name", DEFECTS)
async def test_a_message_that_the_driver_cannot_decode_is_delivered_as_unreadable_with_its_body(
    name: str,
    route: tuple[str, bytes, str],
    transport: RabbitTransport,
    raw_publisher: RawPublisher,
) -> None:
    exchange, key, queue = route
    raw_properties, reason = DEFECTS[name]
    consumer = await transport.consume(queue, prefetch=10)
    await raw_publisher.publish(exchange, key, raw_properties)
    await transport.publish(exchange, key.decode(), Outgoing(b"good", "note"))
    unreadable, good = await receive(consumer, 2)
    assert reason in unreadable.unreadable
    assert (unreadable.body, unreadable.routing_key, unreadable.redelivered) == (
        BODY,
        key.decode(),
        False,
    )
    assert (good.body, good.type, good.unreadable) == (b"good", "note", "")
    assert not any("unreadable" in header for header in unreadable.headers)
    assert transport.connected


async def test_the_readable_properties_of_an_unreadable_message_are_kept(
    transport: RabbitTransport, raw_publisher: RawPublisher
) -> None:
    consumer = await transport.consume(topology.MANAGER_REPORTS, prefetch=10)
    raw_properties = properties(
        headers=table(short(b"word"), b"S", struct.pack(">I", 3), b"yes"),
        message_id=short(b"id-7"),
        timestamp=TOO_LATE,
        type=short(b"result"),
        app_id=short(b"caf\xe9"),
    )
    await raw_publisher.publish(topology.REPORTS, b"result.ada", raw_properties)
    [unreadable] = await receive(consumer, 1)
    assert (unreadable.type, unreadable.message_id, unreadable.app_id) == (
        "result",
        "id-7",
        r"caf\xe9",
    )
    assert unreadable.headers == {"word": "yes"}


async def test_a_routing_key_that_is_not_utf8_is_shown_escaped(
    transport: RabbitTransport, raw_publisher: RawPublisher
) -> None:
    consumer = await transport.consume(topology.MANAGER_SUBMISSIONS, prefetch=10)
    await raw_publisher.publish(topology.SUBMISSIONS, b"submit.\xff", properties(type=short(b"x")))
    await raw_publisher.publish(topology.SUBMISSIONS, b"submit.ok", properties(type=short(b"x")))
    unreadable, good = await receive(consumer, 2)
    assert (unreadable.routing_key, unreadable.type, unreadable.body) == (r"submit.\xff", "x", BODY)
    assert unreadable.unreadable == r"its routing key 'submit.\xff' is not UTF-8"
    assert not good.unreadable


async def test_unreadable_messages_are_dead_lettered_by_manager_and_worker_and_a_run_continues(
    broker_url: str, transport: RabbitTransport, raw_publisher: RawPublisher
) -> None:
    raw_properties, _ = DEFECTS["all of them"]
    # These properties are nearly as large as a frame.
    huge_properties = properties(headers=table(*(_field(n) for n in range(120))))
    unreadable_messages = [
        (topology.SUBMISSIONS, b"submit.x", raw_properties),
        (topology.SUBMISSIONS, b"submit.\xff", properties()),
        (topology.SUBMISSIONS, b"submit.x", huge_properties),
        (topology.REPORTS, b"result.x", raw_properties),
        (topology.REPORTS, b"result.\xff", properties()),
        (topology.REPORTS, b"heartbeat.x", raw_properties),
        (topology.COMMANDS, b"assignment.ada", raw_properties),
        (topology.COMMANDS, b"cancel.ada", huge_properties),
    ]
    dead = await transport.consume(topology.DEAD_LETTERS, prefetch=100)
    async with AsyncExitStack() as stack:

        async def transport_named(name: str) -> RabbitTransport:
            one = RabbitTransport(broker_url, app_id=name, connection_name=name)
            return await stack.enter_async_context(one)

        for one in unreadable_messages:  # once before anybody consumes, and again later
            await raw_publisher.publish(*one, body=b"{")
        store = MemoryStore()
        manager = Manager(
            await transport_named("manager"),
            store,
            lambda: State(BestFit(), chance=lambda: 0.0, store=store.id),
            clock=steady_clock(),
            on_complete=_ignore,
        )
        profile = WorkerProfile(name="ada", title="Ada", incarnation="1", skill=5)
        worker = Worker(
            await transport_named("ada"),
            profile,
            Simulation(profile, 0.0),
            clock=steady_clock(),
            grace=1,
        )
        running = [asyncio.create_task(manager.run()), asyncio.create_task(worker.run())]
        client = Client(await transport_named("client"), patience=SECONDS)
        for run in ("before", "after"):
            result = await client.complete(run, [Task(id="a", difficulty=1)], lambda _: None)
            assert result.has_succeeded
            for one in unreadable_messages:
                await raw_publisher.publish(*one, body=b"{")
        letters = await receive(
            dead, len(unreadable_messages) * 3 - 1
        )  # a heartbeat may expire before it is read
        worker.stop()
        manager.stop()
        await asyncio.gather(*running)
    assert all(letter.body == b"{" and letter.headers[REASON_HEADER] for letter in letters)
    assert {letter.headers[QUEUE_HEADER] for letter in letters} == {
        topology.MANAGER_SUBMISSIONS,
        topology.MANAGER_REPORTS,
        topology.MANAGER_HEARTBEATS,
        topology.worker_queue("ada"),
    }
    assert all(len(str(letter.headers)) < MAX_KEPT_HEADERS + 20_000 for letter in letters)


def _field(number: int) -> bytes:
    return short(f"k{number}".encode()) + b"S" + struct.pack(">I", 1080) + b"x" * 1080


async def _ignore(run: str) -> None: ...
