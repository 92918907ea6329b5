"""Managers, workers and clients, as they are, in a world where things go wrong; and somebody who starts them anew."""

import asyncio
from collections.abc import Callable, Coroutine
from math import inf
from random import Random
from typing import Any
from uuid import uuid4

from skillq.client import Client
from skillq.errors import SkillqError, TransportError, Unreachable, UsageError
from skillq.messages import Submission, TaskStatus, WorkerProfile, slug
from skillq_manager.core.model import TaskKey
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.rules.retry import RetryPolicy
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.store.base import LeadershipLost
from skillq_manager.store.memory import MemoryStore
from tests.simulation.links import Faults
from tests.simulation.loop import VirtualLoop, current_process
from tests.simulation.network import PEER_LOST_SECONDS, Network, SimTransport
from tests.simulation.parts import CheckedState, Parts, Unit
from tests.simulation.scenario import SPECIALTIES, TYPES, Batch, Scenario
from tests.simulation.storage import Disk
from tests.simulation.troubles import Troubles
from tests.simulation.work import ScriptedExecutor, Works

EPOCH = 1_700_000_000.0
PATIENCE_SECONDS = 1800.0  # virtual, for all to end once the faults have stopped
_WATCH_SECONDS = 0.5

RETRIES = RetryPolicy(cap=30.0)
_EXPECTED = (UsageError, TransportError, Unreachable, LeadershipLost)


class World:
    def __init__(
        self, scenario: Scenario, loop: VirtualLoop, parts: Parts, trace: list[str] | None
    ):
        self.scenario = scenario
        self.loop = loop
        self.parts = parts
        self.trace = trace
        self.chance = Random(f"world {scenario.seed}")
        self.network = Network(loop, Random(f"network {scenario.seed}"), scenario.faults)
        self.network.crash = self._crash_here
        self.disk = Disk(
            MemoryStore(),
            Random(f"disk {scenario.seed}"),
            latency=scenario.disk_latency,
            fails=scenario.commit_fails,
            crash=self._crash_here,
            crashes=scenario.disk_crashes,
        )
        self.works = Works()
        self.works.scripts.update(scenario.scripts)
        self.workers: list[Unit] = []
        self.managers: list[Unit] = []
        self.clients: list[Unit] = []
        self.starts: dict[str, Unit] = {}  # of workers, by incarnation
        self.submitted: set[TaskKey] = set()
        self.acknowledged: set[TaskKey] = set()
        self.called_off: set[TaskKey] = set()  # somebody asked for it
        self.completed: dict[str, dict[TaskStatus, int]] = {}  # what clients were told
        self.unhealthy: list[float] = []  # when the manager could not judge workers, sampled
        self.crashes: list[str] = []
        self.is_healed = False
        self.healed_at = inf
        self.manager_starts = 0
        self._lasting: list[asyncio.Task[None]] = []

    def say(self, what: str, **more: object) -> None:
        if self.trace is not None:
            words = " ".join(f"{name}={value}" for name, value in more.items())
            self.trace.append(
                f"{self.loop.time():10.4f} {current_process().name:12} {what} {words}".rstrip()
            )

    # --- the whole story

    async def run(self) -> None:
        world = self.loop.world
        world.start(self._watch())
        for n in range(self.scenario.managers):
            world.start(self._keep_manager(f"manager-{n}"))
        for n in range(self.scenario.workers):
            world.start(self._keep_worker(f"worker {n}"))
        for n, batch in enumerate(self.scenario.batches):
            self._lasting.append(world.spawn(self._hand_in(f"client-{n}", batch)))
        troubles = Troubles(self)
        chaos = [world.spawn(troubles.happen(kind, r)) for kind, r in self.scenario.rates.items()]
        chaos.append(world.spawn(troubles.operate()))
        await asyncio.sleep(self.scenario.chaos_seconds)
        for task in chaos:
            task.cancel()
        self._heal()
        for n in range(2):
            world.start(self._keep_worker(f"able {n}", able=True))
        await self._until_all_has_ended()

    def _heal(self) -> None:
        self.say("HEAL")
        self.is_healed = True
        self.healed_at = self.loop.time()
        self.network.faults = Faults()
        self.disk.fails = self.disk.crashes = 0.0
        self.network.come_back()
        self.network.unblock()
        for process in self.loop.processes:
            if process.is_paused:
                process.resume()

    async def _until_all_has_ended(self) -> None:
        give_up_at = self.loop.time() + PATIENCE_SECONDS
        while self.loop.time() < give_up_at and not await self._have_all_ended():  # noqa: ASYNC110
            await asyncio.sleep(1.0)

    async def _have_all_ended(self) -> bool:
        if not all(task.done() for task in self._lasting):
            return False
        async for _ in self.disk.memory.load():
            return False
        known = await self.disk.memory.known_tasks(self.acknowledged)
        return len(known) == len(self.acknowledged)

    def end(self) -> None:
        """Cancel all that is left, so that nothing is collected in the middle of something."""
        self.trace = None
        for _ in range(3):
            left = [t for process in self.loop.processes for t in process.raise_from_the_dead()]
            if not left:
                return
            self.loop.run_until_complete(self.loop.world.spawn(_settle(left)))

    # --- processes

    def _start(
        self, name: str, units: list[Unit], main: Callable[[Unit], Coroutine[Any, Any, None]]
    ) -> Unit:
        process = self.loop.process(name)
        unit = Unit(process, SimTransport(self.network, process, app_id=name), asyncio.Event())
        units.append(unit)

        def over(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            is_deposed = unit.store is not None and unit.store.was_deposed
            if error is not None and not isinstance(error, _EXPECTED) and not is_deposed:
                self.crashes.append(f"{name}: {error!r}")
            if unit.is_alive:
                self.say("LEAVES", who=name, error=repr(error))
                self._bury(unit)

        task = process.spawn(main(unit))
        task.add_done_callback(over, context=self.loop.world.context)
        return unit

    def _bury(self, unit: Unit) -> None:
        unit.died_at = self.loop.time()
        unit.gone.set()
        for units in (self.workers, self.managers, self.clients):
            if unit in units:
                units.remove(unit)

    async def _crash_here(self) -> None:
        """Kill the process that runs, in the middle of what it does."""
        process = current_process()
        for unit in (*self.workers, *self.managers, *self.clients):
            if unit.process is process:
                self.kill(unit)
        await asyncio.Event().wait()

    def kill(self, unit: Unit) -> None:
        """It says nothing more; the broker notices at once, or when no heartbeat comes."""
        if not unit.is_alive:
            return
        self.say("KILL", who=unit.process.name)
        at_once = self.chance.random() < 0.7
        unit.transport.die(
            0.01 if at_once else PEER_LOST_SECONDS, in_flight=self.chance.random() < 0.5
        )
        unit.process.kill()
        self._bury(unit)

    async def _keep_manager(self, name: str) -> None:
        starts = 0
        while True:
            starts += 1
            self.manager_starts += 1
            holder = f"{name}/{starts}"
            unit = self._start(name, self.managers, lambda unit, h=holder: self._manage(unit, h))  # type: ignore[misc]
            await unit.gone.wait()
            await asyncio.sleep(self.chance.uniform(0.1, 5.0))

    async def _manage(self, unit: Unit, holder: str) -> None:
        store = unit.store = self.parts.store(self.disk, holder)
        chance = Random(f"state {self.scenario.seed} {holder}")
        kind = self.parts.state
        if kind is CheckedState and not self.scenario.validates:
            kind = State

        def new_state() -> State:
            return kind(
                BestFit(),
                chance=chance.random,
                retries=RETRIES,
                store=store.id,
                backlog_keep=self.scenario.head,
            )

        async with unit.transport:
            unit.manager = self.parts.manager(
                unit.transport, store, new_state, clock=self._clock(0.0), on_complete=_ignore
            )
            await unit.manager.run()

    async def _keep_worker(self, title: str, *, able: bool = False) -> None:
        skills = self._skills(able)
        skew = self.chance.uniform(-5.0, 5.0)
        while True:
            incarnation = uuid4().hex
            profile = WorkerProfile.model_validate(
                {"name": slug(title), "title": title, "incarnation": incarnation} | skills
            )
            unit = self._start(
                profile.name,
                self.workers,
                lambda unit, p=profile, s=skew: self._work(unit, p, s),  # type: ignore[misc]
            )
            unit.incarnation = incarnation
            self.starts[incarnation] = unit
            await unit.gone.wait()
            if not able and self.chance.random() < 0.2:
                title = (
                    f"{title} again" if len(title) < 30 else title.split(" again", maxsplit=1)[0]
                )
            await asyncio.sleep(self.chance.choice((0.1, 2.0, 20.0)) * self.chance.random())

    def _skills(self, able: bool) -> dict[str, object]:
        chance = self.chance
        if able:
            return {"skill": 10, "specialties": SPECIALTIES, "types": TYPES, "slots": 10}
        return {
            "skill": chance.randint(2, 9),
            "specialties": tuple(s for s in SPECIALTIES if chance.random() < 0.3),
            "types": TYPES if chance.random() < 0.7 else TYPES[:2],
            "slots": chance.choice((1, 1, 2, 5)),
            "reserve": chance.choice((0, 0, 0, 4)),
        }

    async def _work(self, unit: Unit, profile: WorkerProfile, skew: float) -> None:
        executor = ScriptedExecutor(self.works, profile, profile.types, lambda: self.kill(unit))
        async with unit.transport:
            unit.worker = self.parts.worker(
                unit.transport,
                profile,
                executor,
                clock=self._clock(skew),
                grace=5.0,
                cancel_on_lost_lease=profile.skill % 2 == 0,
            )
            await unit.worker.run()

    def _clock(self, skew: float) -> Callable[[], float]:
        return lambda: EPOCH + skew + self.loop.time()

    # --- clients

    async def _hand_in(self, name: str, batch: Batch) -> None:
        await asyncio.sleep(batch.at)
        self.submitted |= self._keys(batch)
        await self._until_taken(name, batch)
        if batch.again_after is not None:
            await asyncio.sleep(batch.again_after)
            await self._until_taken(name, batch)

    def _keys(self, batch: Batch) -> set[TaskKey]:
        return {(slug(batch.run), task.id) for task in batch.tasks}

    async def _until_taken(self, name: str, batch: Batch) -> None:
        """Clients that die are started anew, but for those that need no answer."""
        while True:
            if batch.way == "http":
                taken = await self._ask_manager(batch)
            else:
                taken = await self._ask_broker(name, batch)
            if taken or batch.way == "forget":
                return
            await asyncio.sleep(self.chance.uniform(0.5, 5.0))

    async def _ask_broker(self, name: str, batch: Batch) -> bool:
        taken: list[bool] = []

        async def main(unit: Unit) -> None:
            async with unit.transport:
                client = Client(unit.transport, name=name, clock=self._clock(0.0))
                taken.append(await self._submit(client, batch))

        unit = self._start(name, self.clients, main)
        await unit.gone.wait()
        return bool(taken) and taken[0]

    async def _submit(self, client: Client, batch: Batch) -> bool:
        if batch.way == "complete":
            result = await client.complete(batch.run, batch.tasks)
            self.completed[batch.run] = result.counts
            self._acknowledge(batch)
            return True
        wait = 0.5 if batch.way == "forget" else 5.0
        receipt = await client.submit(batch.run, batch.tasks, wait=wait)
        # The client promises that they are safe; it cannot know what a broker does with what it confirmed.
        if receipt is not None or not self.scenario.faults.forgotten:
            self._acknowledge(batch)
        return receipt is not None

    def _acknowledge(self, batch: Batch) -> None:
        self.say("ACKNOWLEDGED", run=batch.run, tasks=len(batch.tasks), way=batch.way)
        self.acknowledged |= self._keys(batch)

    async def _ask_manager(self, batch: Batch) -> bool:
        submission = Submission(
            submission_id=uuid4().hex,
            run=slug(batch.run),
            run_title=batch.run,
            tasks=batch.tasks,
        )
        return await self.ask(lambda manager: self._take(manager, submission, batch))

    async def _take(self, manager: Manager, submission: Submission, batch: Batch) -> bool:
        answer = await manager.submit(submission)
        if answer.reason is None:
            self._acknowledge(batch)
        return answer.reason is None

    async def ask(self, question: Callable[[Manager], Coroutine[Any, Any, bool]]) -> bool:
        """Ask the manager that leads, in its own process; False where it dies of it, or will not."""
        unit = next((u for u in self.managers if u.manager and u.manager.is_leading), None)
        if unit is None or unit.manager is None:
            return False
        asked = unit.process.spawn(question(unit.manager))
        gone = asyncio.ensure_future(unit.gone.wait())
        await asyncio.wait([asked, gone], return_when=asyncio.FIRST_COMPLETED, timeout=30.0)
        gone.cancel()
        if not asked.done():
            return False
        error = asked.exception()
        if error is not None and not isinstance(error, SkillqError):
            self.crashes.append(f"{unit.process.name}, asked: {error!r}")
        return error is None and asked.result()

    # --- for the checker

    async def _watch(self) -> None:
        while True:
            if not self._is_healthy():
                self.unhealthy.append(self.loop.time())
            await asyncio.sleep(_WATCH_SECONDS)

    def _is_healthy(self) -> bool:
        """Whether a manager leads that hears workers."""
        network = self.network
        if not network.is_up or network.is_blocked or network.process.is_paused:
            return False
        return any(
            u.manager is not None
            and u.manager.is_leading
            and not u.process.is_paused
            and not u.manager._heartbeats_lost
            and not u.manager._probe.heartbeats_lost
            for u in self.managers
        )


async def _ignore(run: str) -> None: ...


async def _settle(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks, timeout=60.0)
