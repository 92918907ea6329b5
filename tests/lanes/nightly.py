"""Run the nightly checks: `python -m tests.lanes.nightly [PART]`.

Each part takes less than an hour.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.lanes.processes import ROOT

_PYTEST = (sys.executable, "-m", "pytest")
_PARALLEL = ("-n4", "--dist=loadgroup")
_CRASH_POINTS = (*_PYTEST, "tests/e2e/test_crash_points.py", *_PARALLEL)
_CHAOS = (*_PYTEST, "-s", "tests/chaos")  # the test prints its seed and its faults
_ALL_PACKAGES = tuple(
    f"--cov={name}" for name in ("skillq", "skillq_manager", "skillq_worker", "skillq_cli")
)
_LIMIT = 3600.0


@dataclass(frozen=True)
class Step:
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


def _with_broker(broker: str, command: tuple[str, ...], minutes: str | None = None) -> Step:
    environment = {"SKILLQ_TEST_BROKER": broker}
    if minutes is not None:
        environment["SKILLQ_TEST_CHAOS_MINUTES"] = minutes
    return Step(command, tuple(environment.items()))


PARTS: dict[str, tuple[Step, ...]] = {
    "bench": (Step(("make", "bench")),),
    "simulation": (Step((sys.executable, "-m", "tests.simulation", "3000")),),
    "chaos-sqlite": (_with_broker("installed", (*_CHAOS, "-k", "sqlite"), "30"),),
    "chaos-postgresql": (_with_broker("installed", (*_CHAOS, "-k", "postgresql"), "30"),),
    # 3.10 is what Debian installs, 4.x the image of the container.
    "crash-points": (
        _with_broker("installed", _CRASH_POINTS),
        _with_broker("docker", _CRASH_POINTS),
    ),
    "rabbitmq-4": (
        _with_broker("docker", (*_PYTEST, "tests/contract", "-m", "rabbitmq", *_PARALLEL)),
        _with_broker("docker", (*_PYTEST, "tests/e2e/test_outages.py", *_PARALLEL)),
        _with_broker("docker", (*_PYTEST, "tests/e2e/test_replicas.py", *_PARALLEL)),
        _with_broker("docker", _CHAOS),
    ),
    # `make test` measures the coverage of the core alone; this part measures all packages.
    "coverage": (
        Step(
            (
                *_PYTEST,
                "tests/unit",
                "tests/contract",
                *_PARALLEL,
                *_ALL_PACKAGES,
                "--cov-fail-under=90",
            )
        ),
    ),
}


@dataclass(frozen=True)
class Outcome:
    part: str
    code: int
    seconds: float

    def __str__(self) -> str:
        status = "passed" if self.code == 0 else f"FAILED with exit status {self.code}"
        return f"nightly {self.part}: {status} in {self.seconds:.0f} s"


def run(part: str) -> Outcome:
    """Run the steps of a part, up to the first that fails."""
    start = time.monotonic()
    code = 0
    for step in PARTS[part]:
        code = code or _run(step, _LIMIT - (time.monotonic() - start))
    return Outcome(part, code, time.monotonic() - start)


def _run(step: Step, seconds: float) -> int:
    _print_line(f"$ {' '.join(step.command)}")
    environment = os.environ | dict(step.environment)
    try:
        done = subprocess.run(
            step.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _print_line("not done within an hour")
        return 124
    return done.returncode


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    unknown = [part for part in arguments if part not in PARTS]
    if unknown:
        _print_line(f"nightly: no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
        return 2
    outcomes = [run(part) for part in arguments or PARTS]
    _print_line("")
    for outcome in outcomes:
        _print_line(str(outcome))
    return max(outcome.code != 0 for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
