"""Every transport declares and subscribes to queues, and can be closed."""

import asyncio

import pytest

from skillq.errors import TransportError, UnroutableMessage, UsageError
from skillq.messages import Stop
from skillq.topology import (
    COMMANDS,
    DEAD_LETTERS,
    EVENTS,
    MANAGER,
    MANAGER_HEARTBEATS,
    MANAGER_REPORTS,
    MANAGER_SUBMISSIONS,
    REPORTS,
    SUBMISSIONS,
    Queue,
    Topology,
    worker_queue,
    worker_topology,
)
from skillq.transport import Outgoing, Transport
from tests.contract.transports import (
    INBOX,
    SECONDS,
    Connect,
    browse_all,
    inbox_topology,
    receive,
    send,
    text_message,
    texts,
)

# --- declaring --------------------------------------------------------------------------------


async def test_declaring_a_topology_again_keeps_its_messages(connect: Connect) -> None:
    transport = await connect()
    for _ in range(2):
        await transport.declare(MANAGER)
        await transport.declare(worker_topology("junior"))
        await transport.publish(COMMANDS, "assignment.junior", text_message("work"))
    consumer = await transport.consume(worker_queue("junior"), prefetch=10)
    assert texts(await receive(consumer, 2)) == ["work", "work"]


async def test_every_routing_key_of_the_topology_reaches_its_queue(connect: Connect) -> None:
    transport = await connect()
    await transport.declare(MANAGER)
    expected = [
        (SUBMISSIONS, "submit.ci", MANAGER_SUBMISSIONS),
        (REPORTS, "connect.junior", MANAGER_REPORTS),
        (REPORTS, "disconnect.junior", MANAGER_REPORTS),
        (REPORTS, "result.junior", MANAGER_REPORTS),
        (REPORTS, "progress.junior", MANAGER_REPORTS),
        (REPORTS, "heartbeat.junior", MANAGER_HEARTBEATS),
        (DEAD_LETTERS, MANAGER_REPORTS, DEAD_LETTERS),
    ]
    consumers = {
        queue: await transport.consume(queue, prefetch=10) for queue in {q for *_, q in expected}
    }
    for exchange, key, queue in expected:
        await transport.publish(exchange, key, text_message(key))
        assert texts(await receive(consumers[queue], 1)) == [key]


async def test_a_command_reaches_its_worker_and_stop_all_reaches_every_worker(
    connect: Connect,
) -> None:
    transport = await connect()
    await transport.declare(MANAGER)
    consumers = {}
    for worker in ("junior", "senior"):
        await transport.declare(worker_topology(worker))
        consumers[worker] = await transport.consume(worker_queue(worker), prefetch=10)
    await transport.publish(COMMANDS, "cancel.senior", text_message("for senior"))
    await transport.publish(COMMANDS, "stop.all", Outgoing.from_message(Stop(incarnations=())))
    [stop] = await receive(consumers["junior"], 1)
    assert stop.type == "stop"
    assert [one.type for one in await receive(consumers["senior"], 2)] == ["note", "stop"]


async def test_declaring_a_queue_with_other_arguments_is_refused_and_breaks_nothing(
    transport: Transport,
) -> None:
    with pytest.raises(UsageError, match=r"t\.inbox.*other arguments"):
        await transport.declare(inbox_topology(x_max_length=5))
    await send(transport, "hello")
    assert texts(await receive(await transport.consume(INBOX, prefetch=10), 1)) == ["hello"]


async def test_a_workers_queue_with_other_arguments_is_replaced_and_its_consumer_goes_on(
    connect: Connect,
) -> None:
    transport = await connect()
    queue = worker_queue("junior")
    old = Topology(queues=(Queue(queue, {"x-queue-type": "classic", "x-max-length": 5}),))
    await transport.declare(MANAGER)
    await transport.declare(old)
    consumer = await transport.consume(queue, prefetch=10, exclusive=True)
    await transport.declare(worker_topology("junior"))
    await transport.publish(COMMANDS, "assignment.junior", text_message("work"))
    [work] = await receive(consumer, 1)
    await consumer.ack([work])
    assert work.body == b"work"


async def test_a_binding_to_a_missing_exchange_is_an_error(connect: Connect) -> None:
    transport = await connect()
    with pytest.raises(TransportError, match=COMMANDS):
        await transport.declare(worker_topology("junior"))
    await transport.declare(MANAGER)
    await transport.declare(worker_topology("junior"))


# --- subscribing ------------------------------------------------------------------------------


async def test_a_subscriber_gets_matching_messages_from_then_on(connect: Connect) -> None:
    transport = await connect()
    await transport.declare(MANAGER)
    with pytest.raises(UnroutableMessage):
        await transport.publish(EVENTS, "task.r1.task.succeeded", text_message("before"))
    watcher = await (await connect()).subscribe(EVENTS, ["task.r1.#", "run.r1.*"])
    other = await transport.subscribe(EVENTS, ["#"])
    keys = ["task.r1.task.ready", "task.r2.task.ready", "run.r1.completed", "worker.w.lost"]
    for key in keys:
        await transport.publish(EVENTS, key, text_message(key))
    assert texts(await receive(watcher, 2)) == [keys[0], keys[2]]
    assert texts(await receive(other, 4)) == keys


async def test_a_subscription_ends_when_its_consumer_is_closed(connect: Connect) -> None:
    transport = await connect()
    await transport.declare(MANAGER)
    watcher = await transport.subscribe(EVENTS, ["#"])
    await transport.publish(EVENTS, "run.r1.accepted", text_message("seen"))
    await watcher.ack(await receive(watcher, 1))
    await watcher.close()
    await publish_until_unroutable(transport, EVENTS, "run.r1.completed")


async def publish_until_unroutable(transport: Transport, exchange: str, key: str) -> None:
    """Publish until no queue is bound. A queue that is being deleted may still accept or refuse."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await transport.publish(exchange, key, text_message("unseen"))
            except UnroutableMessage:
                return
            except TransportError:
                continue


async def test_subscribing_to_a_missing_exchange_is_an_error(connect: Connect) -> None:
    transport = await connect()
    with pytest.raises(TransportError, match=EVENTS):
        await transport.subscribe(EVENTS, ["#"])


# --- opening and closing ----------------------------------------------------------------------


def is_connected(transport: Transport) -> bool:
    return transport.connected


async def test_every_use_of_a_closed_transport_is_an_error(connect: Connect) -> None:
    transport = await connect()
    await transport.declare(MANAGER)
    consumer = await transport.consume(MANAGER_REPORTS, prefetch=10)
    assert is_connected(transport)
    await transport.__aexit__(None, None, None)
    assert not is_connected(transport)
    for use in (
        transport.publish(REPORTS, "result.junior", text_message("late")),
        transport.declare(MANAGER),
        transport.consume(MANAGER_REPORTS, prefetch=1),
        transport.subscribe(EVENTS, ["#"]),
        consumer.batch(),
        browse_all(transport),
    ):
        with pytest.raises(TransportError, match="closed"):
            await use
