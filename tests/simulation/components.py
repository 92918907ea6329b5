"""The classes that the simulation runs, and a simulated process that runs one of them."""

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
from tests.simulation.network import SimulatedTransport
from tests.simulation.storage import SimulatedStore
from tests.support.invariants import validate


class CheckedState(State):
    """A state that validates itself after every round."""

    def handle(self, events: Any, now: float) -> list[Command]:
        event_list: list[Event] = list(events)
        out = super().handle(event_list, now)
        validate(self)
        return out


@dataclass(frozen=True, slots=True)
class Components:
    """The classes that the simulation runs. A planted bug replaces one of them."""

    manager: type[Manager] = Manager
    worker: type[Worker] = Worker
    state: type[State] = CheckedState
    store: type[SimulatedStore] = SimulatedStore


@dataclass(slots=True)
class ServiceProcess:
    """One start of a simulated process."""

    process: Process
    transport: SimulatedTransport
    exited: asyncio.Event
    incarnation: str = ""
    died_at: float = inf
    pauses: list[tuple[float, float]] = field(default_factory=list)
    manager: Manager | None = None
    store: SimulatedStore | None = None
    worker: Worker | None = None

    @property
    def is_alive(self) -> bool:
        return self.died_at == inf
