"""skillq beside its neighbours, as a whole: client, broker, workers, and what manager and store it has.

    python -m benchmarks.compare [--short] [--only NAME …] [--rounds 3] [--json FILE] [--plots FOLDER]

5,000 no-op tasks, from the submission of the first to the result of the last at the client; then some one at a
time. Two worker processes each, a vhost for each contender and round, rounds interleaved. Medians; the range of
the rounds is in the JSON.
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
from benchmarks.report import keep, table
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
    results: int  # that came back
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


def measure(contender: Contender, size: Size, broker: Broker, more: dict[str, str]) -> Round:
    with running(contender, broker, more) as system:
        if contender.database:
            system.watch_database(more["SKILLQ_STORE_URL"])
        system.ask(f"many {WARM_UP}")
        before = system.cpu()
        many = system.ask(f"many {size.tasks}")
        after = system.cpu()
        laps = [1000 * lap for lap in system.ask(f"one {size.singles}")["laps"]]
        if many["results"] != size.tasks:
            raise Failed(f"{contender.title}: {many['results']} of {size.tasks} results came back")
        percentiles = quantiles(laps, n=100, method="inclusive")

        def each(who: str) -> float | None:
            began, ended = before[who], after[who]
            if began is None or ended is None:
                return None
            return round(1000 * (ended - began) / size.tasks, 3)

        return Round(
            size.tasks,
            many["results"],
            round(size.tasks / many["seconds"], 1),
            round(percentiles[49], 2),
            round(percentiles[98], 2),
            each("app") or 0.0,
            each("broker"),
            each("database"),
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
                with ExitStack() as its:
                    more = {}
                    if measured.contender.database and postgres is not None:
                        more["SKILLQ_STORE_URL"] = its.enter_context(postgres.database_sync())
                    one = measure(measured.contender, size, broker, more)
                measured.rounds.append(one)
                _say(
                    f"round {number}: {measured.contender.title}: {one.tasks_per_second:,.0f} tasks/s,"
                    f" p50 {one.p50_ms} ms, p99 {one.p99_ms} ms"
                )
        return all_measured


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="few tasks, one round")
    parser.add_argument(
        "--only", nargs="*", default=[""], help="contenders whose title contains one of these"
    )
    parser.add_argument("--rounds", type=int, help="how many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw there")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    size = Size(size.tasks, size.singles, options.rounds or size.rounds)
    chosen = [c for c in CONTENDERS if any(o.lower() in c.title.lower() for o in options.only)]
    if not chosen:
        parser.error(f"no contender's title contains {' or '.join(options.only)}")
    about = {**machine.describe(), **asdict(size)}
    try:
        results = [one.report() for one in compare(chosen, size)]
    except Failed as error:
        _say(f"benchmark: {error}")
        return 1
    report = {"about": about, "results": results}
    print(table(report))
    keep(report, options.json)
    if options.plots:
        # Its libraries are needed for nothing else.
        from benchmarks.plots import draw_comparison  # noqa: PLC0415

        draw_comparison(report, options.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
