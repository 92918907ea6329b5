"""What one message costs in Python: published, confirmed, delivered and acknowledged, by one process.

    python -m benchmarks.wire [--messages 5000] [--rounds 3]

Messages of 300 bytes, by skillq's transport in each of the ways that a task takes, and by aio-pika as one would write it,
in turns. CPU is this process's, the broker's left out; a lone message is timed until it is there.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from skillq import topology
from skillq.transport import Consumer, Outgoing
from skillq.transport.rabbitmq import RabbitTransport
from tests.support.broker import find_broker

BODY = b"x" * 300
IN_FLIGHT = 100
LONE = 300

Publish = Callable[[], Awaitable[object]]
Arrived = Callable[[], None]
Way = Callable[[str, Arrived], AbstractAsyncContextManager[Publish]]


async def submission(transport: RabbitTransport) -> tuple[Consumer, Publish]:
    consumer = await transport.consume(topology.MANAGER_SUBMISSIONS, prefetch=IN_FLIGHT)
    return consumer, lambda: transport.publish(
        topology.SUBMISSIONS, "submit.bench", Outgoing(BODY, "bench")
    )


async def assignment(transport: RabbitTransport) -> tuple[Consumer, Publish]:
    await transport.declare(topology.worker_topology("bench"))
    consumer = await transport.consume(topology.worker_queue("bench"), prefetch=IN_FLIGHT)
    return consumer, lambda: transport.publish(
        topology.COMMANDS, "assignment.bench", Outgoing(BODY, "bench")
    )


async def event(transport: RabbitTransport) -> tuple[Consumer, Publish]:
    consumer = await transport.subscribe(topology.EVENTS, ["run.bench.*"])
    return consumer, lambda: transport.publish_unconfirmed(
        topology.EVENTS, "run.bench.accepted", Outgoing(BODY, "bench", persistent=False)
    )


def skillq(begin: Callable[[RabbitTransport], Awaitable[tuple[Consumer, Publish]]]) -> Way:
    @asynccontextmanager
    async def way(url: str, arrived: Arrived) -> AsyncIterator[Publish]:
        async with RabbitTransport(url, app_id="bench", connection_name="bench") as transport:
            await transport.declare(topology.MANAGER)
            consumer, publish = await begin(transport)

            async def take() -> None:
                while True:
                    deliveries = await consumer.batch()
                    await consumer.ack(deliveries)
                    for _ in deliveries:
                        arrived()

            taking = asyncio.create_task(take())
            yield publish
            taking.cancel()

    return way


@asynccontextmanager
async def plain(url: str, arrived: Arrived) -> AsyncIterator[Publish]:
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.set_qos(IN_FLIGHT)
        queue = await channel.declare_queue(
            "bench", durable=True, arguments={"x-queue-type": "quorum"}
        )

        async def take(message: AbstractIncomingMessage) -> None:
            await message.ack()
            arrived()

        await queue.consume(take)
        yield lambda: channel.default_exchange.publish(
            aio_pika.Message(BODY, delivery_mode=aio_pika.DeliveryMode.PERSISTENT), "bench"
        )


async def measure(way: Way, url: str, messages: int) -> tuple[float, float]:
    """µs of CPU for each of many, and ms until a lone one is there."""
    there = asyncio.Semaphore(0)
    async with way(url, there.release) as publish:
        await _many(publish, there, IN_FLIGHT)
        before = time.process_time()
        await _many(publish, there, messages)
        used = time.process_time() - before
        laps = [await _one(publish, there) for _ in range(LONE)]
    return used / messages * 1e6, median(laps) * 1e3


async def _many(publish: Publish, there: asyncio.Semaphore, count: int) -> None:
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with room:
            await publish()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    for _ in range(count):
        await there.acquire()


async def _one(publish: Publish, there: asyncio.Semaphore) -> float:
    began = time.perf_counter()
    publishing = asyncio.ensure_future(publish())
    await there.acquire()
    lap = time.perf_counter() - began
    await publishing
    return lap


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ways: dict[str, Way] = {
        "skillq: a submission or a result, by a quorum queue": skillq(submission),
        "skillq: an assignment, by a worker's queue": skillq(assignment),
        "skillq: an event, without a confirm": skillq(event),
        "aio-pika, by a quorum queue": plain,
    }
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    broker = find_broker()
    try:
        for _ in range(options.rounds):
            for name, way in ways.items():
                with broker.vhost() as url:
                    figures[name].append(asyncio.run(measure(way, url, options.messages)))
    finally:
        broker.stop()
    print("| | µs of CPU, 100 in flight | ms, alone |\n|---|--:|--:|")
    for name, found in figures.items():
        cpu, alone = (median(one) for one in zip(*found, strict=True))
        print(f"| {name} | {cpu:.0f} | {alone:.2f} |")


if __name__ == "__main__":
    main()
