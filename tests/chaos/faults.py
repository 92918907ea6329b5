"""What goes wrong, when, and for how long: a plan that a seed tells again."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

GAP = (1.5, 4.0)  # seconds from one fault to the next
BROKER_STARTS = 15.0  # seconds


class Kind(StrEnum):
    KILL = "killed"
    STOP = "stopped"
    CUT = "cut off"
    SWALLOW = "half open"
    FREEZE = "frozen"
    ALARM = "short of memory"


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    kind: Kind
    target: str
    seconds: float  # until it is undone

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.target} {self.kind} for {self.seconds:.1f} s"


def plan(seed: int, seconds: float, managers: list[str], workers: list[str]) -> Iterator[Fault]:
    """Each kind of fault in turn, in shuffled decks; a target has one at a time."""
    random = Random(seed)
    busy: dict[str, float] = {}
    deck: list[tuple[Kind, list[str], tuple[float, float]]] = []
    now = 1.0
    while now < seconds:
        if not deck:
            deck = _deck(managers, workers)
            random.shuffle(deck)
        kind, targets, (least, most) = deck.pop()
        lasts = random.uniform(least, most)
        free = [target for target in targets if busy.get(target, 0.0) <= now]
        if free:
            target = random.choice(free)
            busy[target] = now + lasts + (BROKER_STARTS if target == "broker" else 1.0)
            yield Fault(now, kind, target, lasts)
        now += random.uniform(*GAP)


def _deck(
    managers: list[str], workers: list[str]
) -> list[tuple[Kind, list[str], tuple[float, float]]]:
    everyone = [*managers, *workers, "stream"]
    return [
        (Kind.KILL, workers, (0.1, 2.0)),
        (Kind.KILL, workers, (0.1, 2.0)),
        (Kind.KILL, managers, (0.1, 2.0)),
        (Kind.STOP, workers, (2.0, 35.0)),
        (Kind.STOP, managers, (2.0, 20.0)),
        (Kind.CUT, everyone, (0.0, 0.0)),
        (Kind.CUT, everyone, (0.0, 0.0)),
        (Kind.SWALLOW, workers, (2.0, 20.0)),
        (Kind.SWALLOW, managers, (2.0, 12.0)),
        (Kind.KILL, ["broker"], (0.1, 3.0)),
        (Kind.FREEZE, ["broker"], (2.0, 12.0)),
        (Kind.ALARM, ["broker"], (4.0, 15.0)),
    ]
