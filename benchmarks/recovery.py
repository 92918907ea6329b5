"""Measure the recovery from a dead process: seconds from `kill -9` to an assignment.

    python -m benchmarks.recovery [--rounds 3] [--json FILE]

The manager notices a dead worker when its lease ends, or at once when a worker of the same name connects. A dead
manager is replaced by its replica, on PostgreSQL.
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
    """Run for longer than the benchmark waits."""
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


class EventWatcher:
    """Submits tasks, and receives their events."""

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
async def watching(url: str) -> AsyncIterator[EventWatcher]:
    async with RabbitTransport(url, app_id="bench", connection_name="bench") as transport:
        keys = ["task.recovery.*.*"]
        yield EventWatcher(transport, await transport.subscribe(topology.EVENTS, keys))


async def worker_dies(system: Running, *, restarts: bool) -> float:
    async with watching(system.url) as watcher:
        await watcher.submit("a")
        started = await watcher.until("a", TaskStatus.RUNNING, 1)
        died = time.monotonic()
        _process_of(system, started.worker or "").kill()
        if restarts:
            system.start(*_worker(started.worker or ""))
        await watcher.until("a", TaskStatus.ASSIGNED, 2)
        return time.monotonic() - died


async def manager_dies(system: Running) -> float:
    async with watching(system.url) as watcher:
        await watcher.submit("a")
        await watcher.until("a", TaskStatus.RUNNING, 1)
        system.start(*_MANAGER)
        await asyncio.to_thread(
            until, lambda: _managers(system) == 2, "the replica should start", 120.0
        )
        died = time.monotonic()
        system.services[0].kill()
        await watcher.submit("b")
        await watcher.until("b", TaskStatus.ASSIGNED, 1)
        return time.monotonic() - died


def _managers(system: Running) -> int:
    names = system.broker.connections(system.url).values()
    return sum(name == "skillq manager (consume)" for name in names)


def _process_of(system: Running, worker: str) -> Process:
    return next(one for one in system.services if one.name.endswith(f"--name {worker}"))


Case = tuple[
    str, bool, Callable[[Running], Coroutine[Any, Any, float]]
]  # the second: whether the managers share a store
CASES: tuple[Case, ...] = (
    ("worker dies and stays away", False, lambda system: worker_dies(system, restarts=False)),
    ("worker dies and is started again", False, lambda system: worker_dies(system, restarts=True)),
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
                with ExitStack() as case_stack:
                    environment = {}
                    if is_shared:
                        environment["SKILLQ_STORE_URL"] = case_stack.enter_context(
                            postgres.database_sync()
                        )
                    system = case_stack.enter_context(running(SYSTEM, broker, environment))
                    seconds[name].append(round(asyncio.run(case(system)), 2))
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
