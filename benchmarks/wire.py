"""Measure the cost of one message in Python, from publish to acknowledgement.

    python -m benchmarks.wire [--messages 5000] [--rounds 3]

Messages of 300 bytes, by skillq's transport in each of the ways that a task takes, and by aio-pika as one would write it,
in turns. The CPU time is that of this process, without the broker; a single message is timed until it arrives.
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
SINGLE_MESSAGES = 300

Publish = Callable[[], Awaitable[object]]
OnArrival = Callable[[], None]
Route = Callable[[str, OnArrival], AbstractAsyncContextManager[Publish]]


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


def skillq(begin: Callable[[RabbitTransport], Awaitable[tuple[Consumer, Publish]]]) -> Route:
    @asynccontextmanager
    async def route(url: str, on_arrival: OnArrival) -> AsyncIterator[Publish]:
        async with RabbitTransport(url, app_id="bench", connection_name="bench") as transport:
            await transport.declare(topology.MANAGER)
            consumer, publish = await begin(transport)

            async def consume_all() -> None:
                while True:
                    deliveries = await consumer.batch()
                    await consumer.ack(deliveries)
                    for _ in deliveries:
                        on_arrival()

            consuming = asyncio.create_task(consume_all())
            yield publish
            consuming.cancel()

    return route


@asynccontextmanager
async def plain(url: str, on_arrival: OnArrival) -> AsyncIterator[Publish]:
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.set_qos(IN_FLIGHT)
        queue = await channel.declare_queue(
            "bench", durable=True, arguments={"x-queue-type": "quorum"}
        )

        async def on_message(message: AbstractIncomingMessage) -> None:
            await message.ack()
            on_arrival()

        await queue.consume(on_message)
        yield lambda: channel.default_exchange.publish(
            aio_pika.Message(BODY, delivery_mode=aio_pika.DeliveryMode.PERSISTENT), "bench"
        )


async def measure(route: Route, url: str, messages: int) -> tuple[float, float]:
    """Return the µs of CPU per message of many, and the ms until a single one arrives."""
    arrivals = asyncio.Semaphore(0)
    async with route(url, arrivals.release) as publish:
        await _many(publish, arrivals, IN_FLIGHT)
        before = time.process_time()
        await _many(publish, arrivals, messages)
        used = time.process_time() - before
        laps = [await _one(publish, arrivals) for _ in range(SINGLE_MESSAGES)]
    return used / messages * 1e6, median(laps) * 1e3


async def _many(publish: Publish, arrivals: asyncio.Semaphore, count: int) -> None:
    in_flight = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with in_flight:
            await publish()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    for _ in range(count):
        await arrivals.acquire()


async def _one(publish: Publish, arrivals: asyncio.Semaphore) -> float:
    start = time.perf_counter()
    publishing = asyncio.ensure_future(publish())
    await arrivals.acquire()
    lap = time.perf_counter() - start
    await publishing
    return lap


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    routes: dict[str, Route] = {
        "skillq: a submission or a result, by a quorum queue": skillq(submission),
        "skillq: an assignment, by a worker's queue": skillq(assignment),
        "skillq: an event, without a confirm": skillq(event),
        "aio-pika, by a quorum queue": plain,
    }
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in routes}
    broker = find_broker()
    try:
        for _ in range(options.rounds):
            for name, route in routes.items():
                with broker.vhost() as url:
                    figures[name].append(asyncio.run(measure(route, url, options.messages)))
    finally:
        broker.stop()
    print("| | µs of CPU, 100 in flight | ms, alone |\n|---|--:|--:|")
    for name, found in figures.items():
        cpu, alone = (median(one) for one in zip(*found, strict=True))
        print(f"| {name} | {cpu:.0f} | {alone:.2f} |")


if __name__ == "__main__":
    main()
