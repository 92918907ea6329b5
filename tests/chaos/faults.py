"""Plan faults, their times and durations. The same seed gives the same plan."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from tests.e2e.processes import TIME_SCALE

GAP = (1.5, 4.0)  # seconds from one fault to the next
BROKER_STARTS = 15.0  # seconds


class FaultKind(StrEnum):
    KILL = "killed"
    STOP = "stopped"
    CUT = "cut off"
    HALF_OPEN = "half open"
    FREEZE = "frozen"
    ALARM = "short of memory"


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    kind: FaultKind
    target: str
    seconds: float  # until the fault ends

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.target} {self.kind} for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class _FaultTemplate:
    kind: FaultKind
    targets: list[str]
    seconds: tuple[float, float]  # the shortest and the longest duration


def plan(seed: int, seconds: float, managers: list[str], workers: list[str]) -> Iterator[Fault]:
    """Yield all kinds of faults in random order, each at a target without another fault at that time."""
    random = Random(seed)
    busy_until: dict[str, float] = {}
    templates: list[_FaultTemplate] = []
    now = 1.0
    while now < seconds:
        if not templates:
            templates = _templates(managers, workers)
            random.shuffle(templates)
        template = next(
            (
                template
                for template in templates
                if _free_targets(template.targets, busy_until, now)
            ),
            None,
        )
        if template is not None:
            templates.remove(template)
            target = random.choice(_free_targets(template.targets, busy_until, now))
            duration = random.uniform(*template.seconds)
            restarts = target == "broker" and template.kind is FaultKind.KILL
            busy_until[target] = now + duration + (BROKER_STARTS if restarts else 2.0)
            yield Fault(now, template.kind, target, duration)
        now += random.uniform(*GAP)


def _free_targets(targets: list[str], busy_until: dict[str, float], now: float) -> list[str]:
    return [target for target in targets if busy_until.get(target, 0.0) <= now]


def _templates(managers: list[str], workers: list[str]) -> list[_FaultTemplate]:
    all_processes = [*managers, *workers, "stream"]
    return [
        _FaultTemplate(FaultKind.KILL, workers, (0.1, 2.0)),
        _FaultTemplate(FaultKind.KILL, managers, (0.1, 2.0)),
        _FaultTemplate(FaultKind.STOP, workers, _scaled(2.0, 35.0)),
        _FaultTemplate(FaultKind.STOP, managers, _scaled(2.0, 20.0)),
        _FaultTemplate(FaultKind.CUT, all_processes, (0.0, 0.0)),
        _FaultTemplate(FaultKind.CUT, all_processes, (0.0, 0.0)),
        _FaultTemplate(FaultKind.HALF_OPEN, workers, _scaled(2.0, 20.0)),
        _FaultTemplate(FaultKind.HALF_OPEN, managers, _scaled(2.0, 12.0)),
        _FaultTemplate(FaultKind.KILL, ["broker"], (0.1, 3.0)),
        _FaultTemplate(FaultKind.FREEZE, ["broker"], _scaled(2.0, 12.0)),
        _FaultTemplate(FaultKind.ALARM, ["broker"], (4.0, 15.0)),
    ]


def _scaled(least: float, most: float) -> tuple[float, float]:
    """Scale the duration of a silence: some are shorter than the leases of the processes, some are longer.

    Other faults are not scaled: starting a process or a memory alarm takes the same time at any scale.
    """
    return least * TIME_SCALE, most * TIME_SCALE
