"""Measure the latency of tasks at 30, 50 and 70 % of the highest throughput.

    python -m benchmarks.load [--short] [--json FILE] [--plots FOLDER]

skillq on SQLite, two workers, no-op tasks, one client, submissions of a fixed size. First many submissions at once
give the highest throughput. Then submissions come at random (Poisson) with a constant mean rate, even if earlier ones
have not ended. The time of a task runs from the moment when its submission was due to its result at the client.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from random import Random
from statistics import median, quantiles

from benchmarks import machine
from benchmarks.contenders import CONTENDERS
from benchmarks.report import write_json
from benchmarks.running import Running, running
from skillq.client import Client, OpenRun
from skillq.messages import Task
from skillq.runtime import gc_tuning
from skillq.transport.rabbitmq import RabbitTransport
from tests.support.broker import find_broker

SYSTEM = next(one for one in CONTENDERS if one.title == "skillq, SQLite")
SHARES = (0.3, 0.5, 0.7)
BURSTS = 3  # of which the median is the highest throughput
HEAD = (
    "| tasks in a submission | highest, tasks/s | load | tasks/s | p50 ms | p99 ms | max ms | CPUs busy |\n"
    "|--:|--:|--:|--:|--:|--:|--:|--:|"
)


@dataclass(frozen=True)
class Size:
    submissions: int  # at once, of each size; of large ones fewer
    tasks: int  # at once, at most
    seconds: float  # at each rate


FULL = Size(1_000, 5_000, 10.0)
SHORT = Size(200, 1_000, 2.0)
BATCHES = (1, 10, 100)


@dataclass(frozen=True)
class Load:
    batch: int
    highest: float  # tasks per second
    share: float
    tasks_per_second: float  # submitted
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpus: float  # busy CPUs, those of client and broker included


class LoadGenerator:
    """Submits `batch` tasks at a time, and records the time of each task."""

    def __init__(self, run: OpenRun, batch: int) -> None:
        self._run = run
        self.batch = batch
        self._ids = count(1)
        self._clock = asyncio.get_running_loop().time
        self.laps: list[float] = []

    async def burst(self, submissions: int) -> float:
        """Submit all at once, and return the tasks per second."""
        start = self._clock()
        async with asyncio.TaskGroup() as group:
            for _ in range(submissions):
                group.create_task(self._submit(start))
        return submissions * self.batch / (self._clock() - start)

    async def flow(self, rate: float, seconds: float, random: Random) -> None:
        """Submit `rate` tasks per second, and wait for the last result."""
        due = self._clock()
        end = due + seconds
        async with asyncio.TaskGroup() as group:
            while (due := due + random.expovariate(rate / self.batch)) < end:
                await asyncio.sleep(due - self._clock())
                group.create_task(self._submit(due))

    async def _submit(self, due: float) -> None:
        ids = (f"{self.batch}-{next(self._ids)}" for _ in range(self.batch))
        results = await self._run.submit([Task(id=id, type="noop", difficulty=1) for id in ids])
        self.laps += [self._clock() - due async for _ in results]


@asynccontextmanager
async def open_generator(url: str, batch: int) -> AsyncIterator[LoadGenerator]:
    async with (
        RabbitTransport(url, app_id="bench", connection_name="bench") as transport,
        Client(transport).open(f"by-{batch}") as run,
    ):
        yield LoadGenerator(run, batch)


async def measure(system: Running, batch: int, size: Size) -> list[Load]:
    async with open_generator(system.url, batch) as generator:
        submissions = min(size.submissions, size.tasks // batch)
        await generator.burst(submissions // 5)
        highest = median([await generator.burst(submissions) for _ in range(BURSTS)])
        return [await _load(system, generator, highest, share, size.seconds) for share in SHARES]


async def _load(
    system: Running, generator: LoadGenerator, highest: float, share: float, seconds: float
) -> Load:
    generator.laps.clear()
    before = _cpu(system)
    await generator.flow(share * highest, seconds, Random(generator.batch))
    cpus = (_cpu(system) - before) / seconds
    percentiles = quantiles(generator.laps, n=100, method="inclusive")
    return Load(
        generator.batch,
        round(highest, 1),
        share,
        round(len(generator.laps) / seconds, 1),
        round(1000 * percentiles[49], 2),
        round(1000 * percentiles[98], 2),
        round(1000 * max(generator.laps), 2),
        round(cpus, 2),
    )


def _cpu(system: Running) -> float:
    """Return the CPU seconds of all processes; this process is the client."""
    used = system.cpu()
    return time.process_time() + (used["app"] or 0.0) + (used["broker"] or 0.0)


def _row(one: Load) -> str:
    return (
        f"| {one.batch} | {one.highest:,.0f} | {one.share:.0%} | {one.tasks_per_second:,.0f}"
        f" | {one.p50_ms:.1f} | {one.p99_ms:.1f} | {one.max_ms:.1f} | {one.cpus:.2f} |"
    )


def draw(loads: list[Load], folder: Path) -> None:
    # Imported here: no other code needs the plotting libraries.
    from benchmarks.plots import draw_bars  # noqa: PLC0415

    names = [f"{one.share:.0%} of {one.highest:,.0f} tasks/s, {one.batch} at once" for one in loads]
    p50, p99 = [one.p50_ms for one in loads], [one.p99_ms for one in loads]
    panels = {"ms, median": (p50, "{:.0f}"), "ms, p99": (p99, "{:.0f}")}
    draw_bars(names, panels, folder / "load.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="two seconds of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw there")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    about = {**machine.describe(), "seconds": size.seconds}
    gc_tuning.collect_rarely()  # as the services do
    loads: list[Load] = []
    print(HEAD, flush=True)
    with ExitStack() as stack:
        broker = find_broker()
        stack.callback(broker.stop)
        for batch in BATCHES:
            with running(SYSTEM, broker) as system:
                for one in asyncio.run(measure(system, batch, size)):
                    loads.append(one)
                    print(_row(one), flush=True)
    write_json({"about": about, "loads": [asdict(one) for one in loads]}, options.json)
    if options.plots:
        draw(loads, options.plots)


if __name__ == "__main__":
    main()
