"""What every transport promises of queues: declared, subscribed to, closed."""

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
from tests.contract.transports import INBOX, SECONDS, Join, browsed, inbox, note, send, take, texts

# --- declaring --------------------------------------------------------------------------------


async def test_the_topologies_can_be_declared_again_and_keep_their_messages(join: Join) -> None:
    transport = await join()
    for _ in range(2):
        await transport.declare(MANAGER)
        await transport.declare(worker_topology("junior"))
        await transport.publish(COMMANDS, "assignment.junior", note("work"))
    consumer = await transport.consume(worker_queue("junior"), prefetch=10)
    assert texts(await take(consumer, 2)) == ["work", "work"]


async def test_every_key_of_the_topology_reaches_its_queue(join: Join) -> None:
    transport = await join()
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
        await transport.publish(exchange, key, note(key))
        assert texts(await take(consumers[queue], 1)) == [key]


async def test_a_command_reaches_its_worker_and_stop_all_reaches_every_worker(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    consumers = {}
    for worker in ("junior", "senior"):
        await transport.declare(worker_topology(worker))
        consumers[worker] = await transport.consume(worker_queue(worker), prefetch=10)
    await transport.publish(COMMANDS, "cancel.senior", note("for senior"))
    await transport.publish(COMMANDS, "stop.all", Outgoing.from_message(Stop(incarnations=())))
    [stop] = await take(consumers["junior"], 1)
    assert stop.type == "stop"
    assert [one.type for one in await take(consumers["senior"], 2)] == ["note", "stop"]


async def test_a_queue_with_other_arguments_is_refused_by_name_and_nothing_breaks(
    transport: Transport,
) -> None:
    with pytest.raises(UsageError, match=r"t\.inbox.*other arguments"):
        await transport.declare(inbox(x_max_length=5))
    await send(transport, "hello")
    assert texts(await take(await transport.consume(INBOX, prefetch=10), 1)) == ["hello"]


async def test_a_workers_queue_with_other_arguments_is_made_anew_under_its_consumer(
    join: Join,
) -> None:
    transport = await join()
    queue = worker_queue("junior")
    old = Topology(queues=(Queue(queue, {"x-queue-type": "classic", "x-max-length": 5}),))
    await transport.declare(MANAGER)
    await transport.declare(old)
    consumer = await transport.consume(queue, prefetch=10, exclusive=True)
    await transport.declare(worker_topology("junior"))
    await transport.publish(COMMANDS, "assignment.junior", note("work"))
    [work] = await take(consumer, 1)
    await consumer.ack([work])
    assert work.body == b"work"


async def test_a_binding_to_an_exchange_that_is_not_there_is_an_error(join: Join) -> None:
    transport = await join()
    with pytest.raises(TransportError, match=COMMANDS):
        await transport.declare(worker_topology("junior"))
    await transport.declare(MANAGER)
    await transport.declare(worker_topology("junior"))


# --- subscribing ------------------------------------------------------------------------------


async def test_a_subscriber_gets_what_matches_from_now_on(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    with pytest.raises(UnroutableMessage):
        await transport.publish(EVENTS, "task.r1.task.succeeded", note("before"))
    watcher = await (await join()).subscribe(EVENTS, ["task.r1.#", "run.r1.*"])
    other = await transport.subscribe(EVENTS, ["#"])
    keys = ["task.r1.task.ready", "task.r2.task.ready", "run.r1.completed", "worker.w.lost"]
    for key in keys:
        await transport.publish(EVENTS, key, note(key))
    assert texts(await take(watcher, 2)) == [keys[0], keys[2]]
    assert texts(await take(other, 4)) == keys


async def test_a_subscription_goes_when_its_consumer_is_closed(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    watcher = await transport.subscribe(EVENTS, ["#"])
    await transport.publish(EVENTS, "run.r1.accepted", note("seen"))
    await watcher.ack(await take(watcher, 1))
    await watcher.close()
    await until_unroutable(transport, EVENTS, "run.r1.completed")


async def until_unroutable(transport: Transport, exchange: str, key: str) -> None:
    """Publish until nobody is bound; a queue that is just going may still refuse or take it."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await transport.publish(exchange, key, note("unseen"))
            except UnroutableMessage:
                return
            except TransportError:
                continue


async def test_subscribing_to_an_exchange_that_is_not_there_is_an_error(join: Join) -> None:
    transport = await join()
    with pytest.raises(TransportError, match=EVENTS):
        await transport.subscribe(EVENTS, ["#"])


# --- opening and closing ----------------------------------------------------------------------


def is_connected(transport: Transport) -> bool:
    return transport.connected


async def test_a_closed_transport_says_so_to_whoever_uses_it(join: Join) -> None:
    transport = await join()
    await transport.declare(MANAGER)
    consumer = await transport.consume(MANAGER_REPORTS, prefetch=10)
    assert is_connected(transport)
    await transport.__aexit__(None, None, None)
    assert not is_connected(transport)
    for use in (
        transport.publish(REPORTS, "result.junior", note("late")),
        transport.declare(MANAGER),
        transport.consume(MANAGER_REPORTS, prefetch=1),
        transport.subscribe(EVENTS, ["#"]),
        consumer.batch(),
        browsed(transport),
    ):
        with pytest.raises(TransportError, match="closed"):
            await use
