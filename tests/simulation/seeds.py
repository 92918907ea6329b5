"""Many seeds, on as many cores as there are."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.checker import Report, check
from tests.simulation.run import simulate


def run_seed(seed: int) -> Report:
    return check(simulate(seed))


def run_seeds(seeds: Sequence[int], jobs: int) -> Iterator[Report]:
    """In processes of their own: a seed is a matter of one core."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run_seed, seeds, chunksize=4)


def replay_command(seed: int) -> str:
    return f"make simulate SEED={seed}"
