"""A worker remembers a limited number of recent results."""

import pytest

from skillq.messages import Outcome
from skillq_worker import recent_results, results
from skillq_worker.recent_results import RecentResults
from skillq_worker.results import Result


def result(id: str, output: str | None = None) -> Result:
    return results.make_result(("r", id, 1), Outcome.SUCCEEDED, output=output)


def test_large_outputs_evict_the_oldest_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_results, "_MAX_BYTES", 1200)
    kept = RecentResults()
    for id in "abc":
        kept.add_result(result(id, "x" * 400))
    assert [kept.get(("r", id, 1)) for id in "abc"] == [
        None,
        result("b", "x" * 400),
        result("c", "x" * 400),
    ]


def test_adding_a_result_again_takes_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_results, "_MAX_BYTES", 1200)
    kept = RecentResults()
    kept.add_result(result("a", "x" * 400))
    for _ in range(5):
        kept.add_result(result("b", "x" * 400))
    assert kept.get(("r", "a", 1)) is not None


def test_many_small_results_evict_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_results, "_MAX_RESULTS", 2)
    kept = RecentResults()
    for id in "abc":
        kept.add_result(result(id))
    assert kept.get(("r", "a", 1)) is None
    assert kept.get(("r", "b", 1)) is not None
