"""The simulation finds no violation in the product, and finds each planted bug."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planted_bugs import PLANTED_BUGS

ROOT = Path(__file__).parents[2]
SEEDS = 300

pytestmark = pytest.mark.timeout(600)


def _simulate(*arguments: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    """Run the simulation in processes of its own, on all cores and without coverage."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_task_is_lost_and_none_is_counted_twice_in_any_simulated_run() -> None:
    done = _simulate(str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    table = {
        name.strip(): float(n)
        for name, n in re.findall(r"^(\D+)([\d.]+)", done.stdout, re.MULTILINE)
    }
    assert table["seeds"] == SEEDS
    assert table["lost"] == table["counted twice"] == 0
    # Without these effects the faults would prove nothing.
    for effect in ("done again", "stale results", "failed as they should", "given ahead"):
        assert table[effect] > SEEDS / 10


def test_a_seed_gives_the_same_run_every_time() -> None:
    first, second = (_simulate("--trace", "5", hash_seed=n).stdout for n in ("1", "2"))
    assert first == second
    assert len(first.splitlines()) > 100


@pytest.mark.parametrize("bug", PLANTED_BUGS)
def test_the_simulation_finds_each_planted_bug(bug: str) -> None:
    done = _simulate(str(SEEDS), "--bug", bug)
    assert "VIOLATED" in done.stdout, f"{SEEDS} seeds have not found the bug: {done.stderr}"
