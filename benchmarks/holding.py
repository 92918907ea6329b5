"""Who holds which tasks when, and how long slots stand idle while tasks wait elsewhere."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """A worker has a task, waiting or running."""

    worker: str
    began: float
    ended: float


def stranded(holds: Iterable[Hold], workers: Collection[str], slots: int) -> float:
    """Slot-seconds that stood idle while other workers held more tasks than they have slots.

    As many slots count as there are such tasks.
    """
    changes = sorted(
        change
        for one in holds
        for change in ((one.began, 1, one.worker), (one.ended, -1, one.worker))
    )
    held = dict.fromkeys(workers, 0)
    total = 0.0
    before = changes[0][0] if changes else 0.0
    for at, by, worker in changes:
        idle = sum(max(0, slots - count) for count in held.values())
        waiting = sum(max(0, count - slots) for count in held.values())
        total += (at - before) * min(idle, waiting)
        held[worker] += by
        before = at
    return total
