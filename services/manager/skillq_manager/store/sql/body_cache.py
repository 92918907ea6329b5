"""Definitions of tasks that came in lately: most are sent soon, and need not be read again for that."""

from collections.abc import Iterable

from skillq.messages import Task
from skillq_manager.core.model import TaskKey

ROOM = 8 * 2**20  # bytes, about
_OVERHEAD = 1000  # bytes of a task without its texts
_TIMES = 8


class BodyCache:
    """Full, it takes no more until some are taken out: what came first is wanted first."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._tasks: dict[TaskKey, tuple[Task, int]] = {}

    def add_bodies(self, key: TaskKey, task: Task, texts: int) -> None:
        """`texts` is how many bytes its texts have; read, they take several times as much."""
        size = _OVERHEAD + _TIMES * texts
        if size <= self._room:
            self._room -= size
            self._tasks[key] = task, size

    def pop_bodies(self, keys: Iterable[TaskKey]) -> dict[TaskKey, Task]:
        """Those of these that there are; they are forgotten here."""
        found = {}
        for key in keys:
            if (there := self._tasks.pop(key, None)) is not None:
                found[key], size = there
                self._room += size
        return found
