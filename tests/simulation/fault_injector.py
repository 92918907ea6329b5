"""Inject faults into a world, and act as an operator who cancels and retries tasks."""

import asyncio
from typing import TYPE_CHECKING

from skillq_manager.core.model import TaskKey
from skillq_manager.manager import Manager
from tests.simulation.components import ServiceProcess
from tests.simulation.network import PEER_LOST_SECONDS

if TYPE_CHECKING:
    from tests.simulation.world import World


class FaultInjector:
    def __init__(self, world: "World") -> None:
        self._world = world

    async def inject_repeatedly(self, kind: str, rate: float) -> None:
        action, _, target = kind.partition(" ")
        while True:
            await asyncio.sleep(self._world.chance.expovariate(rate))
            if action == "broker":
                await self._stop_broker(target)
            elif action == "memory":
                await self._alarm()
            elif action == "delete":
                self._delete_queue()
            else:
                services = {
                    "worker": self._world.workers,
                    "manager": self._world.managers,
                    "client": self._world.clients,
                }
                if services[target]:
                    self._inject(action, self._world.chance.choice(services[target]))

    def _inject(self, action: str, service_process: ServiceProcess) -> None:
        chance, name = self._world.chance, service_process.process.name
        if action == "kill":
            self._world.kill(service_process)
        elif action == "pause" and not service_process.process.is_paused:
            seconds = chance.choice((1.0, 10.0, 50.0)) * chance.random()
            self._world.trace_event("PAUSE", who=name, seconds=f"{seconds:.1f}")
            self._pause(service_process, seconds)
        elif action == "cut":
            here, there = (chance.choice((0.0, 0.0, chance.random() * 30.0)) for _ in range(2))
            self._world.trace_event("CUT", who=name, client=f"{here:.1f}", broker=f"{there:.1f}")
            service_process.transport.cut(here, there)
        elif action == "deafen":
            seconds = chance.uniform(1.0, 25.0)
            self._world.trace_event("DEAF", who=name, seconds=f"{seconds:.1f}")
            service_process.transport.delay_deliveries(seconds)
        elif action in {"drain", "stop"}:
            self._world.trace_event("STOP", who=name)
            service = service_process.worker or service_process.manager
            if service is not None:
                service_process.process.call_later(0.0, service.stop)

    def _pause(self, service_process: ServiceProcess, seconds: float) -> None:
        process, now = service_process.process, self._world.loop.time()
        process.pause()
        service_process.pauses.append((now, now + seconds))
        if seconds > PEER_LOST_SECONDS:
            self._world.loop.world_process.call_later(
                PEER_LOST_SECONDS, self._cut_if_still_paused, service_process
            )
        self._world.loop.world_process.call_later(seconds, process.resume)

    def _cut_if_still_paused(self, service_process: ServiceProcess) -> None:
        """Cut the connection of a process that is still paused, because its AMQP heartbeats are missing."""
        if service_process.process.is_paused and service_process.is_alive:
            service_process.transport.cut(0.0, 0.0)

    async def _stop_broker(self, kind: str) -> None:
        seconds = self._world.chance.choice((1.0, 15.0, 40.0)) * self._world.chance.random()
        self._world.trace_event("BROKER", kind=kind, seconds=f"{seconds:.1f}")
        if kind == "away":
            self._world.network.stop_broker()
            await asyncio.sleep(seconds)
            self._world.network.start_broker()
        else:
            self._world.network.process.pause()
            await asyncio.sleep(min(seconds, 25.0))
            self._world.network.process.resume()
        self._world.trace_event("BROKER is back")

    async def _alarm(self) -> None:
        seconds = self._world.chance.uniform(1.0, 60.0)
        self._world.trace_event("ALARM", seconds=f"{seconds:.1f}")
        self._world.network.block()
        await asyncio.sleep(seconds)
        self._world.network.unblock()

    def _delete_queue(self) -> None:
        names = [n for n in self._world.network.broker._queues if n.startswith("skillq.worker.")]
        if names:
            name = self._world.chance.choice(names)
            self._world.trace_event("DELETE", queue=name)
            self._world.network.delete_queue(name)

    async def operate_repeatedly(self) -> None:
        while self._world.scenario.operator_rate:
            await asyncio.sleep(self._world.chance.expovariate(self._world.scenario.operator_rate))
            tasks = self._world.disk.memory._rows
            if not tasks:
                continue
            row = self._world.chance.choice(tasks)
            kind = self._world.chance.random()
            key = row.run, row.task.id
            if kind < 0.4:
                self._world.cancel_requested.add(key)
                await self._world.call_leader(lambda manager, k=key: _cancel(manager, k[0], [k[1]]))  # type: ignore[misc]
            elif kind < 0.5:
                self._world.cancel_requested |= {
                    (r.run, r.task.id) for r in tasks if r.run == row.run
                }
                self._world.cancel_requested |= {
                    k for k in self._world.submitted if k[0] == row.run
                }
                await self._world.call_leader(lambda manager, k=key: _cancel(manager, k[0], None))  # type: ignore[misc]
            else:
                ended = [r for r in tasks if r.status.is_terminal]
                some = self._world.chance.sample(ended, min(len(ended), 3))
                keys = [(r.run, r.task.id) for r in some]
                await self._world.call_leader(lambda manager, k=keys: _retry(manager, k))  # type: ignore[misc]


async def _cancel(manager: Manager, run: str, ids: list[str] | None) -> bool:
    await manager.cancel(run, ids, "cancelled")
    return True


async def _retry(manager: Manager, keys: list[TaskKey]) -> bool:
    await manager.retry(keys)
    return True
