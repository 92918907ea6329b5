"""Which classes the simulation runs, with a state that checks itself; and one start of a process that runs them."""

import asyncio
from dataclasses import dataclass, field
from math import inf
from typing import Any

from skillq_manager.core.commands import Command
from skillq_manager.core.events import Event
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_worker.worker import Worker
from tests.simulation.loop import Process
from tests.simulation.network import SimTransport
from tests.simulation.storage import SimStore
from tests.support.invariants import validate


class CheckedState(State):
    """Says at once when it contradicts itself."""

    def handle(self, events: Any, now: float) -> list[Command]:
        wanted: list[Event] = list(events)
        out = super().handle(wanted, now)
        validate(self)
        return out


@dataclass(frozen=True, slots=True)
class Parts:
    """What the simulation runs: the services', unless a test breaks one of them."""

    manager: type[Manager] = Manager
    worker: type[Worker] = Worker
    state: type[State] = CheckedState
    store: type[SimStore] = SimStore


@dataclass(slots=True)
class Unit:
    """One start of a process."""

    process: Process
    transport: SimTransport
    gone: asyncio.Event
    incarnation: str = ""
    died_at: float = inf
    pauses: list[tuple[float, float]] = field(default_factory=list)
    manager: Manager | None = None
    store: SimStore | None = None
    worker: Worker | None = None

    @property
    def is_alive(self) -> bool:
        return self.died_at == inf
