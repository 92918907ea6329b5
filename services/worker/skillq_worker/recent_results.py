"""What a worker remembers of attempts whose end it has reported: the manager may not have heard it."""

from collections import OrderedDict

from skillq_worker.execution.slots import Attempt
from skillq_worker.results import Result

_MAX_RESULTS = 10_000
_MAX_BYTES = 16 * 1024 * 1024


class RecentResults:
    """The newest results, as many as fit."""

    def __init__(self) -> None:
        self._results: OrderedDict[Attempt, Result] = OrderedDict()
        self._bytes = 0

    def add_result(self, result: Result) -> None:
        if (before := self._results.pop(result.attempt, None)) is not None:
            self._bytes -= len(before.body)
        self._results[result.attempt] = result
        self._bytes += len(result.body)
        while self._bytes > _MAX_BYTES or len(self._results) > _MAX_RESULTS:
            _, oldest = self._results.popitem(last=False)
            self._bytes -= len(oldest.body)

    def get(self, attempt: Attempt) -> Result | None:
        return self._results.get(attempt)

    def clear(self) -> None:
        self._results.clear()
        self._bytes = 0
