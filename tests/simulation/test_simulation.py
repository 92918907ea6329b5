"""What the simulation says of the services, and whether it can be believed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
SEEDS = 300

pytestmark = pytest.mark.timeout(600)


def _simulate(*arguments: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    """In processes of its own: on all cores, and nothing measures its coverage."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


def test_whatever_dies_nothing_is_lost_and_nothing_is_counted_twice() -> None:
    done = _simulate(str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    table = {
        name.strip(): float(n)
        for name, n in re.findall(r"^(\D+)([\d.]+)", done.stdout, re.MULTILINE)
    }
    assert table["seeds"] == SEEDS
    assert table["lost"] == table["counted twice"] == 0
    # Else nothing has gone wrong, and nothing was proven.
    for trouble in ("done again", "stale results", "failed as they should", "given ahead"):
        assert table[trouble] > SEEDS / 10


def test_a_seed_is_the_same_run_every_time() -> None:
    first, second = (_simulate("--trace", "5", hash_seed=n).stdout for n in ("1", "2"))
    assert first == second
    assert len(first.splitlines()) > 100


@pytest.mark.parametrize("bug", MUTANTS)
def test_a_known_bug_does_not_pass(bug: str) -> None:
    done = _simulate(str(SEEDS), "--bug", bug)
    assert "VIOLATED" in done.stdout, f"{SEEDS} seeds have not noticed: {done.stderr}"
