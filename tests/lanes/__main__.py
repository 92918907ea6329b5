"""Run all tests in lanes side by side: `python -m tests.lanes`."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.lanes.processes import PYTEST, ROOT, Lane, Plan
from tests.lanes.results import read_ids
from tests.lanes.selection import SERVERS, SIMULATION, UNIT
from tests.lanes.summary import differences, last_line, outcomes, table

FOLDER = ROOT / "build" / "lanes"
MAX_SHOWN = 20

_COVERED = ("--cov", "--cov-fail-under=100")  # of the core, see pyproject.toml
_IGNORE = {name: f"--ignore=tests/{name}" for name in ("unit", "simulation", "e2e", "chaos")}
PLANS = (
    Plan(
        UNIT,
        (
            ("tests/unit", "--lane=unit", "-n2", *_COVERED),  # by the unit tests alone
            ("tests", *_IGNORE.values(), "--lane=unit", "-n2"),
        ),
    ),
    Plan(SIMULATION, (("tests/simulation", "--lane=simulation"),), niceness=10),
    Plan(
        SERVERS,
        # These tests mostly wait: for leases, outages, and processes that start.
        (
            (
                "tests",
                _IGNORE["unit"],
                _IGNORE["simulation"],
                "--lane=servers",
                "-n4",
                "--dist=loadgroup",
            ),
        ),
    ),
)


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def collect_ids() -> list[str]:
    """Collect all tests without lanes, and return their ids."""
    file = FOLDER / "collected.jsonl"
    command = [*PYTEST, "tests", "--collect-only", "-q", f"--results={file}"]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print_line(done.stdout + done.stderr)
        return []
    return read_ids(file)


def run_all(lanes: Sequence[Lane]) -> list[str]:
    """Run all lanes at the same time to their end; return the ids of collected tests."""
    ids: list[str] = []
    for lane in lanes:
        lane.start()
    try:
        ids = collect_ids()
        wait_for(lanes)
    except KeyboardInterrupt:
        print_line("interrupted: the lanes stop")
        for lane in lanes:
            lane.stop("interrupted")
        wait_for(lanes)
    return ids


def wait_for(lanes: Sequence[Lane]) -> None:
    running = list(lanes)
    while running:
        time.sleep(0.2)
        for lane in [lane for lane in running if not lane.is_running]:
            running.remove(lane)
            passed, failed, _ = outcomes(lane.results.values())
            status = "FAILED" if lane.complaints else "done"
            print_line(
                f"{lane.plan.name}: {status} in {lane.seconds:.0f} s: {passed} passed, {failed} failed"
            )


def report(lanes: Sequence[Lane], ids: Sequence[str], seconds: float) -> int:
    """Print the logs of lanes that failed, and one summary; return the exit status."""
    for lane in lanes:
        if lane.complaints:
            print_line(f"\n=== the log of lane {lane.plan.name}")
            print_line(lane.log.read_text(errors="replace"))
    print_line("")
    for line in table(lanes):
        print_line(line)
    complaints = [
        f"{lane.plan.name}: {complaint}" for lane in lanes for complaint in lane.complaints
    ]
    complaints += differences(ids, lanes)
    for complaint in complaints[:MAX_SHOWN]:
        print_line(f"FAILED {complaint}")
    print_line(f"{len(ids)} tests collected; {seconds:.0f} s")
    print_line(last_line(lanes))
    return 1 if complaints else 0


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    print_line(
        f"lanes side by side: {', '.join(plan.name for plan in PLANS)} (logs: {FOLDER.relative_to(ROOT)})"
    )
    start = time.monotonic()
    lanes = [Lane(plan, FOLDER) for plan in PLANS]
    ids = run_all(lanes)
    return report(lanes, ids, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(main())
