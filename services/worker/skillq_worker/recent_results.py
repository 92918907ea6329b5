"""Keep a worker's recent results, to resend a result that the manager did not receive."""

from collections import OrderedDict

from skillq_worker.execution.slots import Attempt
from skillq_worker.results import Result

_MAX_RESULTS = 10_000
_MAX_BYTES = 16 * 1024 * 1024


class RecentResults:
    """The newest results: at most 10,000, and at most 16 MiB."""

    def __init__(self) -> None:
        self._results: OrderedDict[Attempt, Result] = OrderedDict()
        self._bytes = 0

    def add_result(self, result: Result) -> None:
        """Keep a result; drop the oldest results that are too many or too large."""
        if (previous := self._results.pop(result.attempt, None)) is not None:
            self._bytes -= len(previous.body)
        self._results[result.attempt] = result
        self._bytes += len(result.body)
        while self._bytes > _MAX_BYTES or len(self._results) > _MAX_RESULTS:
            _, oldest = self._results.popitem(last=False)
            self._bytes -= len(oldest.body)

    def get(self, attempt: Attempt) -> Result | None:
        """Return the result of an attempt, or None if the result is not kept."""
        return self._results.get(attempt)

    def clear(self) -> None:
        """Drop all results."""
        self._results.clear()
        self._bytes = 0
