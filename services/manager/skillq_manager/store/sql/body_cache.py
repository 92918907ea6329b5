"""Cache of new task definitions: most tasks are assigned soon after they were written."""

from collections.abc import Iterable

from skillq.messages import Task
from skillq_manager.core.model import TaskKey

CACHE_BYTES = 8 * 2**20
_BYTES_PER_TASK = 1000  # estimate of a task without description and payload
_MEMORY_FACTOR = 8  # the decoded texts take several times their size as JSON


class BodyCache:
    """A cache of limited size. A full cache ignores new tasks: older tasks are assigned first."""

    def __init__(self, capacity: int = CACHE_BYTES) -> None:
        self._free_bytes = capacity
        self._tasks: dict[TaskKey, tuple[Task, int]] = {}

    def add_bodies(self, key: TaskKey, task: Task, text_bytes: int) -> None:
        """Add a task, if the cache has room. `text_bytes` is the size of description and payload."""
        size = _BYTES_PER_TASK + _MEMORY_FACTOR * text_bytes
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._tasks[key] = task, size

    def pop_bodies(self, keys: Iterable[TaskKey]) -> dict[TaskKey, Task]:
        """Remove the given tasks from the cache; return the tasks that the cache had."""
        found = {}
        for key in keys:
            if (entry := self._tasks.pop(key, None)) is not None:
                found[key], size = entry
                self._free_bytes += size
        return found
