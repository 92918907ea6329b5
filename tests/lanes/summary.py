"""The summary of all lanes: a table, and a line with the numbers of passed and failed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from tests.lanes.processes import Lane
from tests.lanes.results import FAILED, PASSED, SKIPPED, Result

_ROW = "{:<12}{:<14}{:>8}{:>8}{:>9}{:>10}{:>10}"


def table(lanes: Sequence[Lane]) -> Iterator[str]:
    """Yield a row for each suite with its seconds, and for each lane also its CPU seconds."""
    yield _ROW.format("lane", "suite", "passed", "failed", "skipped", "seconds", "CPU")
    for lane in lanes:
        for suite, results in sorted(by_suite(lane.results).items()):
            seconds = sum(result.seconds for result in results)
            yield _ROW.format(lane.plan.name, suite, *outcomes(results), f"{seconds:.0f}", "")
        total = outcomes(lane.results.values())
        yield _ROW.format(
            lane.plan.name, "", *total, f"{lane.seconds:.0f}", f"{lane.cpu_seconds:.0f}"
        )


def by_suite(results: dict[str, Result]) -> dict[str, list[Result]]:
    """Group results by the folder of their tests."""
    found = defaultdict(list)
    for id, result in results.items():
        found[id.split("/")[1]].append(result)
    return found


def outcomes(results: Iterable[Result]) -> tuple[int, int, int]:
    """Return how many tests passed, failed, and were skipped."""
    counts = Counter(result.outcome for result in results)
    return counts[PASSED], counts[FAILED], counts[SKIPPED]


def differences(collected: Sequence[str], lanes: Sequence[Lane]) -> list[str]:
    """Return the tests that did not run in exactly one lane, or were not collected."""
    ran = Counter(id for lane in lanes for id in lane.results)
    found = [f"{id} ran in {times} lanes" for id, times in ran.items() if times > 1]
    found += [f"{id} ran in no lane" for id in collected if id not in ran]
    found += [f"{id} ran, but is not collected" for id in sorted(ran.keys() - set(collected))]
    return found


def last_line(lanes: Sequence[Lane]) -> str:
    """Return the last line of the output, which CI reads."""
    passed, failed, skipped = outcomes(result for lane in lanes for result in lane.results.values())
    return f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")
