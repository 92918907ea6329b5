"""`python -m tests.lanes`: all tests, in lanes that run side by side."""

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
MOST_SHOWN = 20

_COVERED = ("--cov", "--cov-fail-under=100")  # of the core, as pyproject.toml says
_NOT = {name: f"--ignore=tests/{name}" for name in ("unit", "simulation", "e2e", "chaos")}
PLANS = (
    Plan(
        UNIT,
        (
            ("tests/unit", "--lane=unit", "-n2", *_COVERED),  # by the unit tests alone
            ("tests", *_NOT.values(), "--lane=unit", "-n2"),
        ),
    ),
    Plan(SIMULATION, (("tests/simulation", "--lane=simulation"),), niceness=10),
    Plan(
        SERVERS,
        # Most of it waits: for leases, outages, and processes that start.
        (
            (
                "tests",
                _NOT["unit"],
                _NOT["simulation"],
                "--lane=servers",
                "-n4",
                "--dist=loadgroup",
            ),
        ),
    ),
)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def collected() -> list[str]:
    """Return the ids of all tests, of a plain collection."""
    file = FOLDER / "collected.jsonl"
    command = [*PYTEST, "tests", "--collect-only", "-q", f"--results={file}"]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        say(done.stdout + done.stderr)
        return []
    return read_ids(file)


def run_all(lanes: Sequence[Lane]) -> list[str]:
    """Run the lanes at the same time, to the end of the last one; return what was collected meanwhile."""
    ids: list[str] = []
    for lane in lanes:
        lane.start()
    try:
        ids = collected()
        wait_for(lanes)
    except KeyboardInterrupt:
        say("interrupted: the lanes stop")
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
            how = "FAILED" if lane.complaints else "done"
            say(
                f"{lane.plan.name}: {how} in {lane.seconds:.0f} s: {passed} passed, {failed} failed"
            )


def report(lanes: Sequence[Lane], ids: Sequence[str], seconds: float) -> int:
    """Print the logs of lanes that failed, and one summary; return the exit status."""
    for lane in lanes:
        if lane.complaints:
            say(f"\n=== the log of lane {lane.plan.name}")
            say(lane.log.read_text(errors="replace"))
    say("")
    for line in table(lanes):
        say(line)
    complaints = [f"{lane.plan.name}: {what}" for lane in lanes for what in lane.complaints]
    complaints += differences(ids, lanes)
    for complaint in complaints[:MOST_SHOWN]:
        say(f"FAILED {complaint}")
    say(f"{len(ids)} tests collected; {seconds:.0f} s")
    say(last_line(lanes))
    return 1 if complaints else 0


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    say(
        f"lanes side by side: {', '.join(plan.name for plan in PLANS)} (logs: {FOLDER.relative_to(ROOT)})"
    )
    began = time.monotonic()
    lanes = [Lane(plan, FOLDER) for plan in PLANS]
    ids = run_all(lanes)
    return report(lanes, ids, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
