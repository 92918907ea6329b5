"""Run the simulation: `python -m tests.simulation 300` runs seeds 0 to 299; `17:20` runs seeds 17 to 19.

`--trace 17` prints all steps of one seed. `--bug "ack before commit"` runs with a planted bug, up to the first seed that
finds the bug.
"""

import argparse
import sys
from os import cpu_count

from tests.simulation.checker import Report, check
from tests.simulation.planted_bugs import PLANTED_BUGS
from tests.simulation.run import simulate
from tests.simulation.seeds import replay_command, run_seeds

_MAX_SHOWN = 20


def _seeds(text: str) -> range:
    first, colon, last = text.partition(":")
    return range(int(first), int(last)) if colon else range(int(first))


def _trace_seed(seed: int) -> Report:
    trace: list[str] = []
    report = check(simulate(seed, trace=trace))
    sys.stdout.write("\n".join(trace) + "\n")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.simulation", description=__doc__)
    parser.add_argument("seeds", nargs="?", type=_seeds, default=range(300))
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--trace", type=int, metavar="SEED")
    choice.add_argument("--bug", choices=PLANTED_BUGS)
    parser.add_argument("--jobs", type=int, default=cpu_count() or 1)
    arguments = parser.parse_args()
    total = Report()
    if arguments.trace is not None:
        total.add(_trace_seed(arguments.trace))
    else:
        reports = run_seeds(arguments.seeds, arguments.jobs, arguments.bug)
        for seed, report in zip(arguments.seeds, reports, strict=True):
            total.add(report)
            if report.violations:
                if arguments.bug is not None:
                    break
                sys.stdout.write(f"{report.violations[0]}   ({replay_command(seed)})\n")
                sys.stdout.flush()
    sys.stdout.write("\n".join(total.lines()) + "\n")
    for violation in total.violations[:_MAX_SHOWN]:
        sys.stdout.write(f"VIOLATED {violation}\n")
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main())
