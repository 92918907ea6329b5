"""What goes wrong, when, and for how long: a plan that a seed tells again."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from tests.e2e.processes import TIME_SCALE

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


@dataclass(frozen=True, slots=True)
class _Card:
    kind: Kind
    targets: list[str]
    seconds: tuple[float, float]  # how long it may last


def plan(seed: int, seconds: float, managers: list[str], workers: list[str]) -> Iterator[Fault]:
    """All kinds of faults in shuffled decks, each at a target that has none just then."""
    random = Random(seed)
    busy: dict[str, float] = {}
    deck: list[_Card] = []
    now = 1.0
    while now < seconds:
        if not deck:
            deck = _deck(managers, workers)
            random.shuffle(deck)
        card = next((card for card in deck if _free(card.targets, busy, now)), None)
        if card is not None:
            deck.remove(card)
            target = random.choice(_free(card.targets, busy, now))
            lasts = random.uniform(*card.seconds)
            restarts = target == "broker" and card.kind is Kind.KILL
            busy[target] = now + lasts + (BROKER_STARTS if restarts else 2.0)
            yield Fault(now, card.kind, target, lasts)
        now += random.uniform(*GAP)


def _free(targets: list[str], busy: dict[str, float], now: float) -> list[str]:
    return [target for target in targets if busy.get(target, 0.0) <= now]


def _deck(managers: list[str], workers: list[str]) -> list[_Card]:
    everyone = [*managers, *workers, "stream"]
    return [
        _Card(Kind.KILL, workers, (0.1, 2.0)),
        _Card(Kind.KILL, managers, (0.1, 2.0)),
        _Card(Kind.STOP, workers, _scaled(2.0, 35.0)),
        _Card(Kind.STOP, managers, _scaled(2.0, 20.0)),
        _Card(Kind.CUT, everyone, (0.0, 0.0)),
        _Card(Kind.CUT, everyone, (0.0, 0.0)),
        _Card(Kind.SWALLOW, workers, _scaled(2.0, 20.0)),
        _Card(Kind.SWALLOW, managers, _scaled(2.0, 12.0)),
        _Card(Kind.KILL, ["broker"], (0.1, 3.0)),
        _Card(Kind.FREEZE, ["broker"], _scaled(2.0, 12.0)),
        _Card(Kind.ALARM, ["broker"], (4.0, 15.0)),
    ]


def _scaled(least: float, most: float) -> tuple[float, float]:
    """How long a silence lasts: some are shorter than the leases of the processes, some are longer.

    Other faults take as long as it takes to start a process, or to make a broker short of memory.
    """
    return least * TIME_SCALE, most * TIME_SCALE
