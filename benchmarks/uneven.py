"""Measure tasks of very different lengths with lookahead and with fixed prefetch.

    python -m benchmarks.uneven [--short] [--rounds 2] [--longest 2] [--json FILE] [--plots FOLDER]

Four worker processes with four slots each, over RabbitMQ; skillq with SQLite. A task is a sleep, so that CPU is not
the bottleneck. Three mixes are drawn by seed; all policies get the same tasks, submitted at once and in one order.
"""

import argparse
import asyncio
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.contenders import DURABLE, HERE, Contender, prefetch
from benchmarks.holding import Hold, stranded
from benchmarks.mixes import Mix, Sleep, in_one_queue, mixes
from benchmarks.report import write_json
from benchmarks.running import running
from skillq import topology
from skillq.client import Client
from skillq.messages import Task, TaskEvents, TaskStatus, decode
from skillq.transport import Consumer
from skillq.transport.rabbitmq import RabbitTransport
from skillq_worker import Handlers
from tests.support.broker import Broker, find_broker

WORKERS = ("ada", "bob", "cyn", "dan")
SLOTS = 4
PREFETCHES = (1, 4, 64)  # for each slot
WARM_UP = 0.1  # the share of further tasks that are drawn for the warm-up

handlers = Handlers()


@handlers.task("any")
@handlers.task("short")
@handlers.task("long")
async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


# --- policies

Submit = Callable[[str, list[Sleep], str], Coroutine[Any, Any, tuple[float, list[Hold]]]]


@dataclass(frozen=True)
class Policy:
    system: Contender
    submit: Submit

    @property
    def name(self) -> str:
        return self.system.name


async def submit_to_skillq(url: str, sleeps: list[Sleep], run: str) -> tuple[float, list[Hold]]:
    """Submit to skillq; a hold lasts from the assignment of a task to its end or return."""
    tasks = [
        Task(id=str(n), type=one.type, difficulty=1, payload={"seconds": one.seconds})
        for n, one in enumerate(sleeps)
    ]
    async with (
        RabbitTransport(url, app_id="bench", connection_name="bench") as transport,
        RabbitTransport(url, app_id="watch", connection_name="watch") as watching,
        Client(transport).open(run) as opened,
    ):
        events = await watching.subscribe(topology.EVENTS, [f"task.{run}.*.*"])
        watch = asyncio.create_task(watch_holds(events, len(tasks)))
        start = time.perf_counter()
        ends = [ended.status async for ended in opened.map(tasks)]
        seconds = time.perf_counter() - start
        if ends.count(TaskStatus.SUCCEEDED) != len(tasks):
            raise RuntimeError(
                f"{run}: {len(tasks) - ends.count(TaskStatus.SUCCEEDED)} have failed"
            )
        return seconds, await watch


async def watch_holds(events: Consumer, tasks: int) -> list[Hold]:
    holds: list[Hold] = []
    held: dict[str, tuple[str, float]] = {}
    while tasks:
        deliveries = await events.batch()
        await events.ack(deliveries)
        for message in (decode(delivery.body) for delivery in deliveries):
            for event in message.events if isinstance(message, TaskEvents) else ():
                if event.status is TaskStatus.RUNNING:
                    continue
                if (before := held.pop(event.id, None)) is not None:
                    holds.append(Hold(*before, event.at))
                if event.status is TaskStatus.ASSIGNED:
                    held[event.id] = (event.worker or "", event.at)
                tasks -= event.status.is_terminal
    return holds


async def submit_to_prefetchers(
    url: str, sleeps: list[Sleep], run: str
) -> tuple[float, list[Hold]]:
    return await prefetch.submit(url, [one.seconds for one in sleeps])


def skillq(name: str, *more: str) -> Policy:
    workers = tuple(
        (
            "skillq_cli",
            "worker",
            "benchmarks.uneven:handlers",
            "--name",
            worker,
            "--slots",
            str(SLOTS),
        )
        for worker in WORKERS
    )
    manager = ("skillq_cli", "manager", "--http-port", "0", *more)
    system = Contender(
        name, "SQLite", f"{HERE}.skillq", "", (), (manager, *workers), 3 + len(WORKERS)
    )
    return Policy(system, submit_to_skillq)


def prefetching(each: int) -> Policy:
    workers = tuple(
        ("benchmarks.contenders.prefetch", worker, str(SLOTS), str(SLOTS * each))
        for worker in WORKERS
    )
    system = Contender(
        f"prefetch {each}", DURABLE, f"{HERE}.aio_pika", "", (), workers, 1 + len(WORKERS)
    )
    return Policy(system, submit_to_prefetchers)


POLICIES = (
    skillq("skillq"),
    # With equal skills, the arrival policy pairs as best fit does, without lookahead.
    skillq("skillq, nothing ahead", "--policy", "arrival"),
    *map(prefetching, PREFETCHES),
)


# --- measuring


@dataclass(frozen=True)
class Round:
    seconds: float  # from the first submission to the last result
    tasks_per_second: float
    utilisation: float  # of all slots, up to the last result
    to_one_queue: float  # multiple of the time of an ideal queue
    stranded: float  # slot-seconds that were idle while tasks waited at other workers


def measure(broker: Broker, policy: Policy, chosen_mixes: Sequence[Mix], seed: int) -> list[Round]:
    with running(policy.system, broker) as system:
        return [_measure(system.url, policy, mix, seed) for mix in chosen_mixes]


def _measure(url: str, policy: Policy, mix: Mix, seed: int) -> Round:
    # Other tasks than the measured ones: a manager that runs for long has learned the lengths of types.
    warm_up = mix.draw(Random(-seed), math.ceil(WARM_UP * mix.tasks))
    asyncio.run(policy.submit(url, warm_up, f"warm-{mix.name}"))
    sleeps = mix.draw(Random(seed), mix.tasks)
    seconds, holds = asyncio.run(policy.submit(url, sleeps, mix.name))
    slots = len(WORKERS) * SLOTS
    return Round(
        round(seconds, 3),
        round(mix.tasks / seconds, 1),
        round(sum(one.seconds for one in sleeps) / (slots * seconds), 4),
        round(seconds / in_one_queue(sleeps, slots), 4),
        round(stranded(holds, WORKERS, SLOTS), 3),
    )


def compare(chosen_mixes: Sequence[Mix], rounds: int) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[Round]] = defaultdict(list)
    with ExitStack() as stack:
        broker = find_broker()
        stack.callback(broker.stop)
        for number in range(1, rounds + 1):
            for policy in POLICIES:
                for mix, one in zip(
                    chosen_mixes, measure(broker, policy, chosen_mixes, number), strict=True
                ):
                    found[mix.name, policy.name].append(one)
                    print(f"round {number}: {policy.name}: {mix.name}: {one}", file=sys.stderr)
    return [
        {
            "mix": mix,
            "policy": policy,
            **_medians(rounds_of_mix),
            "rounds": [asdict(one) for one in rounds_of_mix],
        }
        for (mix, policy), rounds_of_mix in found.items()
    ]


def _medians(rounds: Sequence[Round]) -> dict[str, float]:
    measures = [asdict(one) for one in rounds]
    return {name: round(median(one[name] for one in measures), 4) for name in measures[0]}


# --- reports

HEAD = (
    "| | seconds | tasks/s | slots in use | to an ideal queue | idle while others wait, slot-s |\n"
    "|---|--:|--:|--:|--:|--:|"
)


def table(results: Sequence[dict[str, Any]]) -> str:
    return "\n".join([HEAD, *map(_row, results)])


def _row(one: dict[str, Any]) -> str:
    return (
        f"| {one['policy']} | {one['seconds']:.2f} | {one['tasks_per_second']:,.0f}"
        f" | {one['utilisation']:.1%} | {one['to_one_queue']:.2f} | {one['stranded']:.1f} |"
    )


def draw(report: dict[str, Any], folder: Path) -> None:
    # Imported here: no other code needs the plotting libraries.
    from benchmarks.plots import draw_bars  # noqa: PLC0415

    draw_bars(
        [policy.name for policy in POLICIES],
        {
            f"slots in use, %\n{title}": (
                [100 * one["utilisation"] for one in _of(report["results"], name)],
                "{:.0f}",
            )
            for name, title in report["mixes"].items()
        },
        folder / "uneven.svg",
    )


def _of(results: Sequence[dict[str, Any]], mix: str) -> list[dict[str, Any]]:
    return [one for one in results if one["mix"] == mix]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="few tasks, one round")
    parser.add_argument(
        "--rounds", type=int, default=2, help="number of rounds, each with other tasks"
    )
    parser.add_argument("--longest", type=float, default=2.0, help="longest task in seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw there")
    options = parser.parse_args()
    chosen_mixes = mixes(options.longest, 0.1 if options.short else 1.0)
    about = {
        **machine.describe(),
        "workers": len(WORKERS),
        "slots": SLOTS,
        "tasks": {mix.name: mix.tasks for mix in chosen_mixes},
    }
    results = compare(chosen_mixes, 1 if options.short else options.rounds)
    report = {"about": about, "mixes": {m.name: m.title for m in chosen_mixes}, "results": results}
    for mix in chosen_mixes:
        print(f"\n{mix.tasks:,} tasks, {mix.title}:\n\n{table(_of(results, mix.name))}")
    write_json(report, options.json)
    if options.plots:
        draw(report, options.plots)


if __name__ == "__main__":
    main()
