"""What goes wrong in a world, and an operator who does not make it easier."""

import asyncio
from typing import TYPE_CHECKING

from skillq_manager.core.model import TaskKey
from skillq_manager.manager import Manager
from tests.simulation.network import PEER_LOST_SECONDS
from tests.simulation.parts import Unit

if TYPE_CHECKING:
    from tests.simulation.world import World


class Troubles:
    def __init__(self, world: "World") -> None:
        self._world = world

    async def happen(self, kind: str, rate: float) -> None:
        what, _, whom = kind.partition(" ")
        while True:
            await asyncio.sleep(self._world.chance.expovariate(rate))
            if what == "broker":
                await self._trouble_broker(whom)
            elif what == "memory":
                await self._alarm()
            elif what == "delete":
                self._delete_queue()
            else:
                units = {
                    "worker": self._world.workers,
                    "manager": self._world.managers,
                    "client": self._world.clients,
                }
                if units[whom]:
                    self._trouble(what, self._world.chance.choice(units[whom]))

    def _trouble(self, what: str, unit: Unit) -> None:
        chance, name = self._world.chance, unit.process.name
        if what == "kill":
            self._world.kill(unit)
        elif what == "pause" and not unit.process.is_paused:
            seconds = chance.choice((1.0, 10.0, 50.0)) * chance.random()
            self._world.say("PAUSE", who=name, seconds=f"{seconds:.1f}")
            self._pause(unit, seconds)
        elif what == "cut":
            here, there = (chance.choice((0.0, 0.0, chance.random() * 30.0)) for _ in range(2))
            self._world.say("CUT", who=name, client=f"{here:.1f}", broker=f"{there:.1f}")
            unit.transport.cut(here, there)
        elif what == "deafen":
            seconds = chance.uniform(1.0, 25.0)
            self._world.say("DEAF", who=name, seconds=f"{seconds:.1f}")
            unit.transport.be_deaf(seconds)
        elif what in {"drain", "stop"}:
            self._world.say("STOP", who=name)
            service = unit.worker or unit.manager
            if service is not None:
                unit.process.later(0.0, service.stop)

    def _pause(self, unit: Unit, seconds: float) -> None:
        process, now = unit.process, self._world.loop.time()
        process.pause()
        unit.pauses.append((now, now + seconds))
        if seconds > PEER_LOST_SECONDS:
            self._world.loop.world.later(PEER_LOST_SECONDS, self._lose_paused, unit)
        self._world.loop.world.later(seconds, process.resume)

    def _lose_paused(self, unit: Unit) -> None:
        """Its AMQP heartbeats have not come; it reads that when it goes on."""
        if unit.process.is_paused and unit.is_alive:
            unit.transport.cut(0.0, 0.0)

    async def _trouble_broker(self, how: str) -> None:
        seconds = self._world.chance.choice((1.0, 15.0, 40.0)) * self._world.chance.random()
        self._world.say("BROKER", how=how, seconds=f"{seconds:.1f}")
        if how == "away":
            self._world.network.go_away()
            await asyncio.sleep(seconds)
            self._world.network.come_back()
        else:
            self._world.network.process.pause()
            await asyncio.sleep(min(seconds, 25.0))
            self._world.network.process.resume()
        self._world.say("BROKER is back")

    async def _alarm(self) -> None:
        seconds = self._world.chance.uniform(1.0, 60.0)
        self._world.say("ALARM", seconds=f"{seconds:.1f}")
        self._world.network.block()
        await asyncio.sleep(seconds)
        self._world.network.unblock()

    def _delete_queue(self) -> None:
        names = [n for n in self._world.network.broker._queues if n.startswith("skillq.worker.")]
        if names:
            name = self._world.chance.choice(names)
            self._world.say("DELETE", queue=name)
            self._world.network.delete_queue(name)

    async def operate(self) -> None:
        while self._world.scenario.operator:
            await asyncio.sleep(self._world.chance.expovariate(self._world.scenario.operator))
            tasks = self._world.disk.memory._rows
            if not tasks:
                continue
            row = self._world.chance.choice(tasks)
            kind = self._world.chance.random()
            key = row.run, row.task.id
            if kind < 0.4:
                self._world.called_off.add(key)
                await self._world.ask(lambda manager, k=key: _cancel(manager, k[0], [k[1]]))  # type: ignore[misc]
            elif kind < 0.5:
                self._world.called_off |= {(r.run, r.task.id) for r in tasks if r.run == row.run}
                self._world.called_off |= {k for k in self._world.submitted if k[0] == row.run}
                await self._world.ask(lambda manager, k=key: _cancel(manager, k[0], None))  # type: ignore[misc]
            else:
                ended = [r for r in tasks if r.status.is_terminal]
                some = self._world.chance.sample(ended, min(len(ended), 3))
                keys = [(r.run, r.task.id) for r in some]
                await self._world.ask(lambda manager, k=keys: _retry(manager, k))  # type: ignore[misc]


async def _cancel(manager: Manager, run: str, ids: list[str] | None) -> bool:
    await manager.cancel(run, ids, "called off")
    return True


async def _retry(manager: Manager, keys: list[TaskKey]) -> bool:
    await manager.retry(keys)
    return True
