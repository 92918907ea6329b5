"""Measure how throughput grows with workers, and what a backlog costs.

    python -m benchmarks.growth [--short] [--full] [--huge] [--rounds 3] [--json FILE] [--plots FOLDER]

Workers are processes up to eight; more share eight processes. No-op tasks, SQLite, one RabbitMQ. A backlog of tasks
that wait because nobody can do them yet: those that flow past it, the manager's memory, its start from the file.
And a backlog of the tasks that its workers do: how fast it is worked off. Medians of rounds, which are interleaved.
"""

import argparse
import asyncio
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.contenders import HERE, SLOTS, Contender
from benchmarks.report import write_json
from benchmarks.running import Failed, Running, running
from benchmarks.store import fill
from skillq.runtime.clock import steady_clock
from tests.support.broker import Broker, find_broker

PROCESSES = 8
FILE = "skillq.db"


@dataclass(frozen=True)
class Size:
    tasks: int
    fleets: tuple[int, ...]
    backlogs: tuple[int, ...]  # of tasks that no worker can do
    drained: tuple[int, ...]  # of tasks that the workers do


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
    """Return a system of a manager and this number of workers, in at most eight processes."""
    count = min(workers, PROCESSES)
    shares = [workers // count + (n < workers % count) for n in range(count)]
    groups = tuple(
        ("benchmarks.worker_group", f"p{number}", str(share), str(SLOTS))
        for number, share in enumerate(shares)
    )
    manager = ("skillq_cli", "manager", "--http-port", "0")
    return Contender(
        "skillq", f"{workers} workers", f"{HERE}.skillq", "", (), (manager, *groups), 3 + workers
    )


def measure_fleet(broker: Broker, workers: int, tasks: int) -> Point:
    with running(system(workers), broker) as system_run:
        system_run.request(f"many {max(200, 4 * workers)}")
        return Point(
            _speed(system_run, tasks), machine.peak_mib(system_run.pids[:1]), workers=workers
        )


@contextmanager
def filled_store(backlog: int, folders: Path, **fields: Any) -> Iterator[Path]:
    """Yield a folder with a copy of a store in which `backlog` tasks wait."""
    name = f"{backlog}, " + ", ".join(f"{key} {value}" for key, value in fields.items())
    if not (original := folders / name).exists():
        original.mkdir()
        asyncio.run(fill(f"sqlite:///{original}/{FILE}", backlog, **fields))
    with tempfile.TemporaryDirectory(prefix="copy-", dir=folders) as folder:
        shutil.copy(original / FILE, folder)
        os.sync()  # else the disk writes the copy while commits are measured
        yield Path(folder)


def measure_backlog(broker: Broker, backlog: int, tasks: int, folders: Path) -> Point:
    """Measure with a backlog of another run's tasks that no worker can do."""
    with filled_store(backlog, folders, difficulty=10) as folder:
        start = time.monotonic()
        with running(system(2), broker, _store(folder)) as system_run:
            system_run.request("many 1")
            started = time.monotonic() - start
            system_run.request("many 200")
            speed = _speed(system_run, tasks)
            return Point(
                speed, machine.peak_mib(system_run.pids[:1]), round(started, 2), backlog=backlog
            )


def measure_drained(broker: Broker, backlog: int, folders: Path) -> Point:
    """Measure how fast workers do a backlog: results per second by the workers' clocks."""
    with filled_store(backlog, folders, difficulty=1, type="noop", payload={}) as folder:
        start = steady_clock()()
        with (
            running(system(2), broker, _store(folder)) as system_run,
            closing(sqlite3.connect(folder / FILE)) as file,
        ):
            give_up_at = time.monotonic() + DRAINED_SECONDS
            while time.monotonic() < give_up_at and _done(file) < backlog:
                time.sleep(0.1)
            first, last, count = file.execute(_SPEED).fetchone()
            if not count:
                raise Failed(f"of a backlog of {backlog} nothing was done")
            speed = round(count / (last - first), 1)
            peak = machine.peak_mib(system_run.pids[:1])
            return Point(speed, peak, round(first - start, 2), backlog=backlog)


def _store(folder: Path) -> dict[str, str]:
    return {"SKILLQ_STORE_URL": f"sqlite:///{folder}/{FILE}"}


_SPEED = "SELECT min(finished_at), max(finished_at), count(*) FROM tasks WHERE status = 'succeeded'"


def _done(file: sqlite3.Connection) -> int:
    (count,) = file.execute("SELECT sum(n) FROM run_counts WHERE status = 'succeeded'").fetchone()
    return count or 0


def _speed(system_run: Running, tasks: int) -> float:
    return round(tasks / float(system_run.request(f"many {tasks}")["seconds"]), 1)


def measure(size: Size, rounds: int) -> dict[str, list[dict[str, Any]]]:
    with ExitStack() as stack:
        broker = find_broker()
        stack.callback(broker.stop)
        folders = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skillq-bench-")))

        def table(title: str, sizes: Sequence[int], of: Callable[[int], Point]) -> list[Any]:
            columns = f"{'tasks/s':>24} {'manager, MiB':>13} {'first result after, s':>22}"
            print(f"\n{title:>30} {columns}", flush=True)
            points = [[of(one) for one in sizes] for _ in range(rounds)]
            return [
                _summarise(one, [of_all[n] for of_all in points]) for n, one in enumerate(sizes)
            ]

        return {
            "fleets": table(
                "workers", size.fleets, lambda workers: measure_fleet(broker, workers, size.tasks)
            ),
            "backlogs": table(
                "past a backlog of",
                size.backlogs,
                lambda backlog: measure_backlog(broker, backlog, size.tasks, folders),
            ),
            "drained": table(
                "a backlog worked off, of",
                size.drained,
                lambda backlog: measure_drained(broker, backlog, folders),
            ),
        }


def _summarise(size: int, points: Sequence[Point]) -> dict[str, Any]:
    speeds = sorted(point.tasks_per_second for point in points)
    middle = Point(
        median(speeds),
        median(point.manager_peak_mib for point in points),
        median(point.start_seconds for point in points),
        points[0].workers,
        points[0].backlog,
    )
    speed = f"{middle.tasks_per_second:,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f})"
    print(
        f"{size:30,} {speed:>24} {middle.manager_peak_mib:13,.0f} {middle.start_seconds:22.1f}",
        flush=True,
    )
    return asdict(middle) | {"speeds": speeds}


def draw(report: dict[str, Any], folder: Path) -> None:
    # Imported here: no other code needs the plotting libraries.
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
    parser.add_argument("--full", action="store_true", help="also backlogs of 1,000,000")
    parser.add_argument(
        "--huge",
        action="store_true",
        help="only backlogs of 1,000, 1,000,000 and 10,000,000: 10 GB",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw there")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, which alternate")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    if options.full:
        size = replace(size, backlogs=(*size.backlogs, MILLION), drained=(*size.drained, MILLION))
    if options.huge:
        millions = (MILLION, 10 * MILLION)
        size = replace(size, fleets=(), backlogs=(1_000, *millions), drained=millions)
    report = {
        "about": machine.describe(),
        "tasks": size.tasks,
        "rounds": options.rounds,
        **measure(size, options.rounds),
    }
    write_json(report, options.json)
    if options.plots:
        draw(report, options.plots)


if __name__ == "__main__":
    main()
