"""How throughput grows with workers, and what a backlog costs: tasks/s, the manager's memory and its start.

    python -m benchmarks.growth [--short] [--full] [--huge] [--json FILE] [--plots FOLDER]

Workers are processes up to eight; more share eight processes. No-op tasks, SQLite, one RabbitMQ. A backlog of tasks
that wait because nobody can do them yet: those that flow past it, the manager's memory, its start from the file.
And a backlog of the tasks that its workers do: how fast it is worked off.
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.contenders import HERE, SLOTS, Contender
from benchmarks.report import keep
from benchmarks.running import Failed, Running, running
from benchmarks.store import fill
from skillq.clock import steady_clock
from tests.broker import Broker, find_broker

PROCESSES = 8


@dataclass(frozen=True)
class Size:
    tasks: int
    fleets: tuple[int, ...]
    backlogs: tuple[int, ...]  # past which tasks flow
    drained: tuple[int, ...]  # that are worked off


FULL = Size(5_000, (1, 4, 16, 64, 256), (0, 1_000, 10_000, 100_000), (1_000, 10_000, 100_000))
SHORT = Size(500, (1, 16), (0, 1_000), (1_000,))
MILLION = 1_000_000
DRAINED_SECONDS = 15.0


@dataclass
class Point:
    tasks_per_second: float
    manager_peak_mib: float
    start_seconds: float = 0.0
    workers: int = 2
    backlog: int = 0


def system(workers: int) -> Contender:
    """A manager, and so many workers in at most eight processes."""
    count = min(workers, PROCESSES)
    shares = [workers // count + (n < workers % count) for n in range(count)]
    crews = tuple(
        ("benchmarks.crew", f"p{number}", str(share), str(SLOTS))
        for number, share in enumerate(shares)
    )
    manager = ("skillq_cli", "manager", "--http-port", "0")
    return Contender(
        "skillq", f"{workers} workers", f"{HERE}.skillq", "", (), (manager, *crews), 3 + workers
    )


def of_fleet(broker: Broker, workers: int, tasks: int) -> Point:
    with running(system(workers), broker) as up:
        up.ask(f"many {max(200, 4 * workers)}")
        return Point(_speed(up, tasks), machine.peak_mib(up.pids[:1]), workers=workers)


def of_backlog(broker: Broker, backlog: int, tasks: int) -> Point:
    """What waits is there before the manager is: tasks of another run, that need more skill than anybody has."""
    with tempfile.TemporaryDirectory(prefix="skillq-bench-") as folder:
        url = f"sqlite:///{folder}/skillq.db"
        asyncio.run(fill(url, backlog, difficulty=10))
        began = time.monotonic()
        with running(system(2), broker, {"SKILLQ_STORE_URL": url}) as up:
            up.ask("many 1")
            started = time.monotonic() - began
            up.ask("many 200")
            speed = _speed(up, tasks)
            return Point(speed, machine.peak_mib(up.pids[:1]), round(started, 2), backlog=backlog)


def of_drained(broker: Broker, backlog: int) -> Point:
    """What waits is what the workers do: results per second, by their clocks, until all is done or for a while."""
    with tempfile.TemporaryDirectory(prefix="skillq-bench-") as folder:
        url = f"sqlite:///{folder}/skillq.db"
        asyncio.run(fill(url, backlog, difficulty=1, type="noop", payload={}))
        began = steady_clock()()
        with (
            running(system(2), broker, {"SKILLQ_STORE_URL": url}) as up,
            closing(sqlite3.connect(f"{folder}/skillq.db")) as file,
        ):
            give_up_at = time.monotonic() + DRAINED_SECONDS
            while time.monotonic() < give_up_at and _done(file) < backlog:
                time.sleep(0.1)
            first, last, count = file.execute(_SPEED).fetchone()
            if not count:
                raise Failed(f"of a backlog of {backlog} nothing was done")
            speed = round(count / (last - first), 1)
            peak = machine.peak_mib(up.pids[:1])
            return Point(speed, peak, round(first - began, 2), backlog=backlog)


_SPEED = "SELECT min(finished_at), max(finished_at), count(*) FROM tasks WHERE status = 'succeeded'"


def _done(file: sqlite3.Connection) -> int:
    (count,) = file.execute("SELECT sum(n) FROM run_counts WHERE status = 'succeeded'").fetchone()
    return count or 0


def _speed(up: Running, tasks: int) -> float:
    return round(tasks / float(up.ask(f"many {tasks}")["seconds"]), 1)


def measure(size: Size) -> dict[str, list[dict[str, Any]]]:
    with ExitStack() as stack:
        broker = find_broker()
        stack.callback(broker.stop)
        fleets, backlogs, drained = [], [], []
        print(f"{'workers':>10} {'tasks/s':>9} {'manager, MiB':>13}", flush=True)
        for workers in size.fleets:
            fleets.append(point := of_fleet(broker, workers, size.tasks))
            print(
                f"{workers:10,} {point.tasks_per_second:9,.0f} {point.manager_peak_mib:13,.0f}",
                flush=True,
            )
        print(
            f"\n{'backlog':>10} {'tasks/s':>9} {'manager, MiB':>13} {'first result after, s':>22}",
            flush=True,
        )
        for backlog in size.backlogs:
            backlogs.append(point := of_backlog(broker, backlog, size.tasks))
            print(
                f"{backlog:10,} {point.tasks_per_second:9,.0f} {point.manager_peak_mib:13,.0f}"
                f" {point.start_seconds:22.1f}",
                flush=True,
            )
        print("\nworked off:", flush=True)
        for backlog in size.drained:
            drained.append(point := of_drained(broker, backlog))
            print(
                f"{backlog:10,} {point.tasks_per_second:9,.0f} {point.manager_peak_mib:13,.0f}"
                f" {point.start_seconds:22.1f}",
                flush=True,
            )
    return {
        "fleets": [asdict(one) for one in fleets],
        "backlogs": [asdict(one) for one in backlogs],
        "drained": [asdict(one) for one in drained],
    }


def draw(report: dict[str, Any], folder: Path) -> None:
    # Its libraries are needed for nothing else.
    from benchmarks.plots import draw_lines  # noqa: PLC0415

    fleets = [(one["workers"], one["tasks_per_second"]) for one in report["fleets"]]
    draw_lines(
        "Tasks per second, by number of workers",
        fleets,
        ("workers", "tasks/s"),
        folder / "growth-workers.svg",
    )
    backlogs = [(max(1, one["backlog"]), one["tasks_per_second"]) for one in report["backlogs"]]
    draw_lines(
        "Tasks per second, past a backlog",
        backlogs,
        ("tasks that wait", "tasks/s"),
        folder / "growth-backlog.svg",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="few tasks, few workers")
    parser.add_argument("--full", action="store_true", help="backlogs of 1,000,000, too")
    parser.add_argument(
        "--huge", action="store_true", help="only backlogs of 1,000, 1,000,000 and 10,000,000: 4 GB"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw there")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    if options.full:
        size = replace(size, backlogs=(*size.backlogs, MILLION), drained=(*size.drained, MILLION))
    if options.huge:
        millions = (MILLION, 10 * MILLION)
        size = replace(size, fleets=(), backlogs=(1_000, *millions), drained=millions)
    report = {"about": machine.describe(), "tasks": size.tasks, **measure(size)}
    keep(report, options.json)
    if options.plots:
        draw(report, options.plots)


if __name__ == "__main__":
    main()
