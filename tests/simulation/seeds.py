"""Run many seeds on several cores."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from tests.simulation.checker import Report, check
from tests.simulation.planted_bugs import run_with_bug
from tests.simulation.run import simulate


def run_seed(seed: int, bug: str | None = None) -> Report:
    return check(simulate(seed)) if bug is None else run_with_bug(bug, seed)


def run_seeds(seeds: Sequence[int], jobs: int, bug: str | None = None) -> Iterator[Report]:
    """Yield the reports in the order of the seeds. Seeds run in processes; a caller may stop early."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(partial(run_seed, bug=bug), seeds, chunksize=4)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def replay_command(seed: int) -> str:
    return f"make simulate SEED={seed}"
