"""What a worker remembers of attempts whose end it has reported: the manager may not have heard it."""

from collections import OrderedDict

from pydantic_core import to_json

from skillq.messages import TaskResult
from skillq_worker.slots import Attempt

_MAX_RESULTS = 10_000
_MAX_BYTES = 16 * 1024 * 1024


class Memory:
    """The newest results, as many as fit."""

    def __init__(self) -> None:
        self._results: OrderedDict[Attempt, tuple[TaskResult, int]] = OrderedDict()
        self._bytes = 0

    def add(self, result: TaskResult) -> None:
        size = len(to_json(result.output))  # all else is short
        key = (result.run, result.id, result.attempt)
        _, before = self._results.pop(key, (result, 0))
        self._results[key] = result, size
        self._bytes += size - before
        while self._bytes > _MAX_BYTES or len(self._results) > _MAX_RESULTS:
            _, (_, size) = self._results.popitem(last=False)
            self._bytes -= size

    def get(self, attempt: Attempt) -> TaskResult | None:
        found = self._results.get(attempt)
        return None if found is None else found[0]

    def clear(self) -> None:
        self._results.clear()
        self._bytes = 0
