"""Compute how long slots are idle while tasks wait at other workers."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """The time in which a worker holds a task, waiting or running; seconds."""

    worker: str
    began: float
    ended: float


def stranded(holds: Iterable[Hold], workers: Collection[str], slots: int) -> float:
    """Return the slot-seconds that were idle while other workers held more tasks than slots.

    At any time at most as many slots count as there are such excess tasks.
    """
    changes = sorted(
        change
        for one in holds
        for change in ((one.began, 1, one.worker), (one.ended, -1, one.worker))
    )
    held_tasks = dict.fromkeys(workers, 0)
    total = 0.0
    before = changes[0][0] if changes else 0.0
    for time, change, worker in changes:
        idle = sum(max(0, slots - count) for count in held_tasks.values())
        waiting = sum(max(0, count - slots) for count in held_tasks.values())
        total += (time - before) * min(idle, waiting)
        held_tasks[worker] += change
        before = time
    return total
