"""Run real managers, workers and clients with faults, and start them again when they die."""

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
from tests.simulation.components import CheckedState, Components, ServiceProcess
from tests.simulation.connections import NetworkFaults
from tests.simulation.fault_injector import FaultInjector
from tests.simulation.loop import VirtualLoop, current_process
from tests.simulation.network import PEER_LOST_SECONDS, Network, SimulatedTransport
from tests.simulation.scenario import SPECIALTIES, TYPES, Batch, Scenario
from tests.simulation.storage import Disk
from tests.simulation.work_log import ScriptedExecutor, WorkLog

EPOCH = 1_700_000_000.0
END_TIMEOUT_SECONDS = 1800.0  # virtual seconds in which all tasks must end after the last fault
_WATCH_SECONDS = 0.5

RETRIES = RetryPolicy(cap=30.0)
_EXPECTED = (UsageError, TransportError, Unreachable, LeadershipLost)


class World:
    def __init__(
        self, scenario: Scenario, loop: VirtualLoop, parts: Components, trace: list[str] | None
    ):
        self.scenario = scenario
        self.loop = loop
        self.components = parts
        self.trace = trace
        self.chance = Random(f"world {scenario.seed}")
        self.network = Network(loop, Random(f"network {scenario.seed}"), scenario.faults)
        self.network.crash = self._crash_current_process
        self.disk = Disk(
            MemoryStore(),
            Random(f"disk {scenario.seed}"),
            latency=scenario.disk_latency,
            failure_rate=scenario.commit_failure_rate,
            crash=self._crash_current_process,
            crash_rate=scenario.disk_crash_rate,
        )
        self.work_log = WorkLog()
        self.work_log.scripts.update(scenario.scripts)
        self.workers: list[ServiceProcess] = []
        self.managers: list[ServiceProcess] = []
        self.clients: list[ServiceProcess] = []
        self.starts: dict[str, ServiceProcess] = {}  # starts of workers by incarnation
        self.submitted: set[TaskKey] = set()
        self.acknowledged: set[TaskKey] = set()
        self.cancel_requested: set[TaskKey] = set()  # tasks for which a cancel was requested
        # Counts by run, as clients received them.
        self.completed: dict[str, dict[TaskStatus, int]] = {}
        # Sampled times at which no manager could notice lost workers.
        self.unhealthy_times: list[float] = []
        self.crashes: list[str] = []
        self.faults_stopped = False
        self.faults_stopped_at = inf
        self.manager_starts = 0
        self.client_tasks: list[asyncio.Task[None]] = []

    def trace_event(self, what: str, **more: object) -> None:
        if self.trace is not None:
            words = " ".join(f"{name}={value}" for name, value in more.items())
            self.trace.append(
                f"{self.loop.time():10.4f} {current_process().name:12} {what} {words}".rstrip()
            )

    # --- the run

    async def run(self) -> None:
        world = self.loop.world_process
        world.start(self._sample_health())
        for n in range(self.scenario.managers):
            world.start(self._run_manager_repeatedly(f"manager-{n}"))
        for n in range(self.scenario.workers):
            world.start(self._run_worker_repeatedly(f"worker {n}"))
        for n, batch in enumerate(self.scenario.batches):
            self.client_tasks.append(world.spawn(self._submit_batch(f"client-{n}", batch)))
        troubles = FaultInjector(self)
        chaos = [
            world.spawn(troubles.inject_repeatedly(kind, r))
            for kind, r in self.scenario.fault_rates.items()
        ]
        chaos.append(world.spawn(troubles.operate_repeatedly()))
        await asyncio.sleep(self.scenario.chaos_seconds)
        for task in chaos:
            task.cancel()
        self._stop_faults()
        for n in range(2):
            world.start(self._run_worker_repeatedly(f"able {n}", able=True))
        await self._wait_until_all_ended()

    def _stop_faults(self) -> None:
        self.trace_event("HEAL")
        self.faults_stopped = True
        self.faults_stopped_at = self.loop.time()
        self.network.faults = NetworkFaults()
        self.disk.failure_rate = self.disk.crash_rate = 0.0
        self.network.start_broker()
        self.network.unblock()
        for process in self.loop.processes:
            if process.is_paused:
                process.resume()

    async def _wait_until_all_ended(self) -> None:
        give_up_at = self.loop.time() + END_TIMEOUT_SECONDS
        while self.loop.time() < give_up_at and not await self._has_all_ended():  # noqa: ASYNC110
            await asyncio.sleep(1.0)

    async def _has_all_ended(self) -> bool:
        if not all(task.done() for task in self.client_tasks):
            return False
        async for _ in self.disk.memory.load():
            return False
        known = await self.disk.memory.known_tasks(self.acknowledged)
        return len(known) == len(self.acknowledged)

    def end(self) -> None:
        """Cancel all open tasks, so that garbage collection does not end them later."""
        self.trace = None
        for _ in range(3):
            open_tasks = [t for process in self.loop.processes for t in process.cancel_tasks()]
            if not open_tasks:
                return
            self.loop.run_until_complete(self.loop.world_process.spawn(_settle(open_tasks)))

    # --- processes

    def _start(
        self,
        name: str,
        services: list[ServiceProcess],
        main: Callable[[ServiceProcess], Coroutine[Any, Any, None]],
    ) -> ServiceProcess:
        process = self.loop.process(name)
        service = ServiceProcess(
            process, SimulatedTransport(self.network, process, app_id=name), asyncio.Event()
        )
        services.append(service)

        def over(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            is_deposed = service.store is not None and service.store.has_lost_leadership
            if error is not None and not isinstance(error, _EXPECTED) and not is_deposed:
                self.crashes.append(f"{name}: {error!r}")
            if service.is_alive:
                self.trace_event("LEAVES", who=name, error=repr(error))
                self._remove(service)

        task = process.spawn(main(service))
        task.add_done_callback(over, context=self.loop.world_process.context)
        return service

    def _remove(self, service: ServiceProcess) -> None:
        service.died_at = self.loop.time()
        service.exited.set()
        for services in (self.workers, self.managers, self.clients):
            if service in services:
                services.remove(service)

    async def _crash_current_process(self) -> None:
        """Kill the current process at this point of its work."""
        process = current_process()
        for service in (*self.workers, *self.managers, *self.clients):
            if service.process is process:
                self.kill(service)
        await asyncio.Event().wait()

    def kill(self, service: ServiceProcess) -> None:
        """Kill a process. The broker notices that at once, or by missing heartbeats."""
        if not service.is_alive:
            return
        self.trace_event("KILL", who=service.process.name)
        at_once = self.chance.random() < 0.7
        service.transport.kill(
            0.01 if at_once else PEER_LOST_SECONDS, in_flight=self.chance.random() < 0.5
        )
        service.process.kill()
        self._remove(service)

    async def _run_manager_repeatedly(self, name: str) -> None:
        starts = 0
        while True:
            starts += 1
            self.manager_starts += 1
            holder = f"{name}/{starts}"
            service = self._start(
                name,
                self.managers,
                lambda service, h=holder: self._run_manager(service, h),  # type: ignore[misc]
            )
            await service.exited.wait()
            await asyncio.sleep(self.chance.uniform(0.1, 5.0))

    async def _run_manager(self, service: ServiceProcess, holder: str) -> None:
        store = service.store = self.components.store(self.disk, holder)
        chance = Random(f"state {self.scenario.seed} {holder}")
        kind = self.components.state
        if kind is CheckedState and not self.scenario.validates_state:
            kind = State

        def new_state() -> State:
            return kind(
                BestFit(),
                chance=chance.random,
                retries=RETRIES,
                store=store.id,
                backlog_keep=self.scenario.head,
            )

        async with service.transport:
            service.manager = self.components.manager(
                service.transport, store, new_state, clock=self._clock(0.0), on_complete=_ignore
            )
            await service.manager.run()

    async def _run_worker_repeatedly(self, title: str, *, able: bool = False) -> None:
        skills = self._skills(able)
        skew = self.chance.uniform(-5.0, 5.0)
        while True:
            incarnation = uuid4().hex
            profile = WorkerProfile.model_validate(
                {"name": slug(title), "title": title, "incarnation": incarnation} | skills
            )
            service = self._start(
                profile.name,
                self.workers,
                lambda service, p=profile, s=skew: self._run_worker(service, p, s),  # type: ignore[misc]
            )
            service.incarnation = incarnation
            self.starts[incarnation] = service
            await service.exited.wait()
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

    async def _run_worker(
        self, service: ServiceProcess, profile: WorkerProfile, skew: float
    ) -> None:
        executor = ScriptedExecutor(
            self.work_log, profile, profile.types, lambda: self.kill(service)
        )
        async with service.transport:
            service.worker = self.components.worker(
                service.transport,
                profile,
                executor,
                clock=self._clock(skew),
                grace=5.0,
                cancel_on_lost_lease=profile.skill % 2 == 0,
            )
            await service.worker.run()

    def _clock(self, skew: float) -> Callable[[], float]:
        return lambda: EPOCH + skew + self.loop.time()

    # --- clients

    async def _submit_batch(self, name: str, batch: Batch) -> None:
        await asyncio.sleep(batch.at)
        self.submitted |= self._keys(batch)
        await self._submit_until_accepted(name, batch)
        if batch.resubmit_after is not None:
            await asyncio.sleep(batch.resubmit_after)
            await self._submit_until_accepted(name, batch)

    def _keys(self, batch: Batch) -> set[TaskKey]:
        return {(slug(batch.run), task.id) for task in batch.tasks}

    async def _submit_until_accepted(self, name: str, batch: Batch) -> None:
        """Submit a batch until it is accepted. A client with the method `forget` submits once."""
        while True:
            if batch.method == "http":
                accepted = await self._submit_over_http(batch)
            else:
                accepted = await self._submit_over_broker(name, batch)
            if accepted or batch.method == "forget":
                return
            await asyncio.sleep(self.chance.uniform(0.5, 5.0))

    async def _submit_over_broker(self, name: str, batch: Batch) -> bool:
        accepted: list[bool] = []

        async def main(service: ServiceProcess) -> None:
            async with service.transport:
                client = Client(service.transport, name=name, clock=self._clock(0.0))
                accepted.append(await self._submit(client, batch))

        service = self._start(name, self.clients, main)
        await service.exited.wait()
        return bool(accepted) and accepted[0]

    async def _submit(self, client: Client, batch: Batch) -> bool:
        if batch.method == "complete":
            result = await client.complete(batch.run, batch.tasks)
            self.completed[batch.run] = result.counts
            self._acknowledge(batch)
            return True
        wait = 0.5 if batch.method == "forget" else 5.0
        receipt = await client.submit(batch.run, batch.tasks, wait=wait)
        # The client says that the tasks are safe, though a broker may forget what it confirmed.
        if receipt is not None or not self.scenario.faults.forgotten:
            self._acknowledge(batch)
        return receipt is not None

    def _acknowledge(self, batch: Batch) -> None:
        self.trace_event("ACKNOWLEDGED", run=batch.run, tasks=len(batch.tasks), way=batch.method)
        self.acknowledged |= self._keys(batch)

    async def _submit_over_http(self, batch: Batch) -> bool:
        submission = Submission(
            submission_id=uuid4().hex,
            run=slug(batch.run),
            run_title=batch.run,
            tasks=batch.tasks,
        )
        return await self.call_leader(
            lambda manager: self._submit_to_manager(manager, submission, batch)
        )

    async def _submit_to_manager(
        self, manager: Manager, submission: Submission, batch: Batch
    ) -> bool:
        answer = await manager.submit(submission)
        if answer.reason is None:
            self._acknowledge(batch)
        return answer.reason is None

    async def call_leader(self, request: Callable[[Manager], Coroutine[Any, Any, bool]]) -> bool:
        """Call the leading manager in its own process; return False if it dies or refuses."""
        service = next((u for u in self.managers if u.manager and u.manager.is_leading), None)
        if service is None or service.manager is None:
            return False
        call = service.process.spawn(request(service.manager))
        exited = asyncio.ensure_future(service.exited.wait())
        await asyncio.wait([call, exited], return_when=asyncio.FIRST_COMPLETED, timeout=30.0)
        exited.cancel()
        if not call.done():
            return False
        error = call.exception()
        if error is not None and not isinstance(error, SkillqError):
            self.crashes.append(f"{service.process.name}, call: {error!r}")
        return error is None and call.result()

    # --- observations for the checker

    async def _sample_health(self) -> None:
        while True:
            if not self._is_healthy():
                self.unhealthy_times.append(self.loop.time())
            await asyncio.sleep(_WATCH_SECONDS)

    def _is_healthy(self) -> bool:
        """Return whether a manager leads and receives from workers."""
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
