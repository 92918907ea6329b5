"""How long until what died is made good: seconds from `kill -9` to the next assignment.

    python -m benchmarks.recovery [--rounds 3] [--json FILE]

A worker that stays away is noticed by its lease; one that is started again under its name says so itself. A manager's
place is taken by its replica, on PostgreSQL.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.contenders import HERE, Contender
from benchmarks.running import Process, Running, running
from skillq import topology
from skillq.client import Client
from skillq.messages import Task, TaskEvent, TaskEvents, TaskStatus, decode
from skillq.transport import Consumer
from skillq.transport.rabbitmq import RabbitTransport
from skillq_worker import Handlers
from tests.support.broker import find_broker
from tests.support.postgres import find_postgres
from tests.support.waiting import until

handlers = Handlers()
PATIENCE = 120.0
_MANAGER = ("skillq_cli", "manager", "--http-port", "0")


@handlers.task
async def hold() -> None:
    """Goes on for longer than anybody waits."""
    await asyncio.sleep(3600)


def _worker(name: str) -> tuple[str, ...]:
    return ("skillq_cli", "worker", "benchmarks.recovery:handlers", "--name", name)


SYSTEM = Contender(
    "skillq",
    "recovery",
    f"{HERE}.skillq",
    "",
    services=(_MANAGER, _worker("ada"), _worker("bob")),
    consumers=5,
)


class Watch:
    """Sees what is assigned, and hands tasks in."""

    def __init__(self, transport: RabbitTransport, events: Consumer) -> None:
        self._client = Client(transport)
        self._events = events

    async def submit(self, id: str) -> None:
        await self._client.submit("recovery", [Task(id=id, type="hold", difficulty=1)])

    async def until(self, id: str, status: TaskStatus, attempt: int) -> TaskEvent:
        async with asyncio.timeout(PATIENCE):
            while True:
                deliveries = await self._events.batch()
                await self._events.ack(deliveries)
                for message in (decode(delivery.body) for delivery in deliveries):
                    for event in message.events if isinstance(message, TaskEvents) else ():
                        if (event.id, event.status, event.attempt) == (id, status, attempt):
                            return event


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Watch]:
    async with RabbitTransport(url, app_id="bench", connection_name="bench") as transport:
        keys = ["task.recovery.*.*"]
        yield Watch(transport, await transport.subscribe(topology.EVENTS, keys))


async def worker_dies(up: Running, *, comes_back: bool) -> float:
    async with watching(up.url) as watch:
        await watch.submit("a")
        began = await watch.until("a", TaskStatus.RUNNING, 1)
        died = time.monotonic()
        _of(up, began.worker or "").kill()
        if comes_back:
            up.start(*_worker(began.worker or ""))
        await watch.until("a", TaskStatus.ASSIGNED, 2)
        return time.monotonic() - died


async def manager_dies(up: Running) -> float:
    async with watching(up.url) as watch:
        await watch.submit("a")
        await watch.until("a", TaskStatus.RUNNING, 1)
        up.start(*_MANAGER)
        await asyncio.to_thread(
            until, lambda: _managers(up) == 2, "the replica should start", 120.0
        )
        died = time.monotonic()
        up.services[0].kill()
        await watch.submit("b")
        await watch.until("b", TaskStatus.ASSIGNED, 1)
        return time.monotonic() - died


def _managers(up: Running) -> int:
    names = up.broker.connections(up.url).values()
    return sum(name == "skillq manager (consume)" for name in names)


def _of(up: Running, worker: str) -> Process:
    return next(one for one in up.services if one.name.endswith(f"--name {worker}"))


Case = tuple[
    str, bool, Callable[[Running], Coroutine[Any, Any, float]]
]  # and whether its store is shared
CASES: tuple[Case, ...] = (
    ("worker dies and stays away", False, lambda up: worker_dies(up, comes_back=False)),
    ("worker dies and is started again", False, lambda up: worker_dies(up, comes_back=True)),
    ("manager dies, its replica takes over", True, manager_dies),
)


def measure(rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in CASES}
    with ExitStack() as stack:
        broker, postgres = find_broker(), find_postgres(durable=True)
        stack.callback(broker.stop)
        stack.callback(postgres.stop)
        for _ in range(rounds):
            for name, is_shared, case in CASES:
                with ExitStack() as its:
                    more = {}
                    if is_shared:
                        more["SKILLQ_STORE_URL"] = its.enter_context(postgres.database_sync())
                    up = its.enter_context(running(SYSTEM, broker, more))
                    seconds[name].append(round(asyncio.run(case(up)), 2))
                print(f"{name}: {seconds[name][-1]} s", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    seconds = measure(options.rounds)
    for name, all_of_them in seconds.items():
        print(f"{name}: median {median(all_of_them)} s ({min(all_of_them)} to {max(all_of_them)})")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"about": machine.describe(), "seconds": seconds}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
