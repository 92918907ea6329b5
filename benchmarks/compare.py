"""Compare skillq with other task queues, each as a whole.

    python -m benchmarks.compare [--short] [--only NAME …] [--rounds 3] [--json FILE] [--plots FOLDER]

A client submits 5,000 no-op tasks; the time ends with the last result at the client. Then it submits some tasks one
at a time. Each contender has two worker processes, and a vhost of its own in each round. Rounds of contenders
alternate. The figures are medians; the JSON has the range over the rounds.
"""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import machine
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.report import table, write_json
from benchmarks.running import Failed, running
from tests.support.broker import Broker, find_broker
from tests.support.postgres import Postgres, find_postgres

WARM_UP = 200


@dataclass(frozen=True)
class Size:
    tasks: int
    singles: int
    rounds: int


FULL = Size(5_000, 300, 3)
SHORT = Size(500, 30, 1)


@dataclass
class Round:
    tasks: int
    results: int  # that the client received
    tasks_per_second: float
    p50_ms: float
    p99_ms: float
    app_cpu_ms: float  # per task, while many are done
    broker_cpu_ms: float | None
    database_cpu_ms: float | None
    peak_mib: float


@dataclass
class Measured:
    contender: Contender
    rounds: list[Round] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        c = self.contender
        measures = [asdict(one) for one in self.rounds]
        summary = {
            name: _summary([m[name] for m in measures])
            for name in measures[0]
            if measures[0][name] is not None
        }
        return {
            "name": c.name,
            "variant": c.variant,
            "settings": c.settings,
            "versions": {name: version(name) for name in c.packages},
            **summary,
            "rounds": measures,
        }


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def measure(contender: Contender, size: Size, broker: Broker, environment: dict[str, str]) -> Round:
    with running(contender, broker, environment) as system:
        if contender.database:
            system.watch_database(environment["SKILLQ_STORE_URL"])
        system.request(f"many {WARM_UP}")
        before = system.cpu()
        many = system.request(f"many {size.tasks}")
        after = system.cpu()
        laps = [1000 * lap for lap in system.request(f"one {size.singles}")["laps"]]
        if many["results"] != size.tasks:
            raise Failed(f"{contender.title}: {many['results']} of {size.tasks} results came back")
        percentiles = quantiles(laps, n=100, method="inclusive")

        def cpu_ms_per_task(name: str) -> float | None:
            start, end = before[name], after[name]
            if start is None or end is None:
                return None
            return round(1000 * (end - start) / size.tasks, 3)

        return Round(
            size.tasks,
            many["results"],
            round(size.tasks / many["seconds"], 1),
            round(percentiles[49], 2),
            round(percentiles[98], 2),
            cpu_ms_per_task("app") or 0.0,
            cpu_ms_per_task("broker"),
            cpu_ms_per_task("database"),
            round(system.peak_mib(), 1),
        )


def compare(contenders: list[Contender], size: Size) -> list[Measured]:
    with ExitStack() as stack:
        broker = find_broker()
        stack.callback(broker.stop)
        postgres: Postgres | None = None
        if any(contender.database for contender in contenders):
            postgres = find_postgres(durable=True)
            stack.callback(postgres.stop)
        all_measured = [Measured(contender) for contender in contenders]
        for number in range(1, size.rounds + 1):
            for measured in all_measured:
                with ExitStack() as system_stack:
                    environment = {}
                    if measured.contender.database and postgres is not None:
                        environment["SKILLQ_STORE_URL"] = system_stack.enter_context(
                            postgres.database_sync()
                        )
                    one = measure(measured.contender, size, broker, environment)
                measured.rounds.append(one)
                _print_progress(
                    f"round {number}: {measured.contender.title}: {one.tasks_per_second:,.0f} tasks/s,"
                    f" p50 {one.p50_ms} ms, p99 {one.p99_ms} ms"
                )
        return all_measured


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="few tasks, one round")
    parser.add_argument(
        "--only", nargs="*", default=[""], help="contenders whose title contains one of these"
    )
    parser.add_argument("--rounds", type=int, help="number of rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw there")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    size = Size(size.tasks, size.singles, options.rounds or size.rounds)
    contenders = [c for c in CONTENDERS if any(o.lower() in c.title.lower() for o in options.only)]
    if not contenders:
        parser.error(f"no contender's title contains {' or '.join(options.only)}")
    about = {**machine.describe(), **asdict(size)}
    try:
        results = [one.report() for one in compare(contenders, size)]
    except Failed as error:
        _print_progress(f"benchmark: {error}")
        return 1
    report = {"about": about, "results": results}
    print(table(report))
    write_json(report, options.json)
    if options.plots:
        # Imported here: no other code needs the plotting libraries.
        from benchmarks.plots import draw_comparison  # noqa: PLC0415

        draw_comparison(report, options.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
