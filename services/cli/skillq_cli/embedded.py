"""Run the manager and workers in one process, with the memory transport and store."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from uuid import uuid4

from skillq import topology
from skillq.client import Client
from skillq.errors import UsageError
from skillq.forms import WorkerForm, WorkFile
from skillq.messages import Task, TaskEvent, Unroutable, WorkerProfile, slug
from skillq.runtime.clock import Clock, steady_clock
from skillq.summary import EndedTask
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.core.model import Need, Skills
from skillq_manager.core.rules.matching import Policy, handles, why_unable
from skillq_manager.core.state import State
from skillq_manager.manager import Manager
from skillq_manager.outbound.run_summary import ended_tasks
from skillq_manager.store.memory import MemoryStore
from skillq_worker.execution.executor import Executor, HandlerExecutor
from skillq_worker.execution.handlers import Handlers, load_handlers
from skillq_worker.execution.simulation import Simulation
from skillq_worker.worker import Worker

OnEvent = Callable[[TaskEvent], None]


async def run_embedded(
    work: WorkFile,
    policy: Policy,
    time_scale: float,
    on_event: OnEvent,
    clock: Clock | None = None,
) -> list[EndedTask]:
    """Run the tasks of a file with its workers; return the ended tasks, in their order.

    Raises:
        UsageError: there are no workers, or no worker can do one of the tasks.
    """
    clock = clock or steady_clock()
    broker, store = MemoryBroker(), MemoryStore()

    def new_state() -> State:
        expected = len(work.workers)
        return State(policy, chance=random.random, expected_workers=expected, store=store.id)

    async def print_no_summary(run: str) -> None: ...

    async with AsyncExitStack() as stack:

        async def open_transport(app_id: str) -> MemoryTransport:
            return await stack.enter_async_context(MemoryTransport(broker, app_id=app_id))

        _check_dependencies(work.tasks)
        workers_to_start = _executors(stack, work.workers, time_scale)
        _check_workers(work.tasks, [profile for profile, _ in workers_to_start], policy)
        manager = Manager(
            await open_transport("manager"),
            store,
            new_state,
            clock=clock,
            stop_when_done=True,
            on_complete=print_no_summary,
        )
        workers = [
            await _make_worker(await open_transport(profile.name), profile, executor, clock)
            for profile, executor in workers_to_start
        ]
        client = Client(await open_transport("client"), clock=clock)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(manager.run(), name="manager")
                for worker in workers:
                    group.create_task(worker.run())
                group.create_task(client.complete(work.run, work.tasks, on_event))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
    return await ended_tasks(store, slug(work.run))


async def _make_worker(
    transport: MemoryTransport, profile: WorkerProfile, executor: Executor, clock: Clock
) -> Worker:
    # The queues are declared before the start, so that the workers connect in the order of the file.
    await transport.declare(topology.MANAGER)
    await transport.declare(topology.worker_topology(profile.name))
    return Worker(transport, profile, executor, clock=clock, grace=0.0)


def _executors(
    stack: AsyncExitStack, workers: Sequence[WorkerForm], time_scale: float
) -> list[tuple[WorkerProfile, Executor]]:
    if not workers:
        raise UsageError(
            "the file has no workers; add `workers:` with a name and a skill each "
            "(a CSV has only tasks: name it in a YAML file, `tasks: FILE.csv`)"
        )
    shared: dict[str, HandlerExecutor] = {}
    profiles_with_executors: list[tuple[WorkerProfile, Executor]] = []
    for form in workers:
        profile = WorkerProfile(
            name=slug(form.name),
            title=form.name,
            incarnation=uuid4().hex,
            skill=form.skill,
            specialties=form.specialties,
            slots=form.slots,
            reserve=form.reserve,
        )
        executor: Executor = Simulation(profile, time_scale)
        if form.handlers is not None:
            if form.handlers not in shared:
                handlers = _handlers(form.name, form.handlers)
                shared[form.handlers] = stack.enter_context(HandlerExecutor(handlers))
            executor = shared[form.handlers]
        profiles_with_executors.append(
            (profile.model_copy(update={"types": executor.types}), executor)
        )
    return profiles_with_executors


def _handlers(worker: str, path: str) -> Handlers:
    try:
        return load_handlers(path)
    except UsageError as error:
        raise UsageError(f"worker {worker}: {error}") from error


def _check_dependencies(tasks: Sequence[Task]) -> None:
    """Check that each dependency is a task of the file: the new run has no other tasks."""
    ids = {task.id for task in tasks}
    for task in tasks:
        for dependency in task.depends_on:
            if dependency not in ids:
                raise UsageError(
                    f"task {task.id}: depends on {dependency}, which is not in the file; "
                    "add it, or correct the id"
                )


def _check_workers(
    tasks: Sequence[Task], profiles: Sequence[WorkerProfile], policy: Policy
) -> None:
    """Check that some worker can do each task: no other worker connects later."""
    all_skills = [Skills.from_profile(profile) for profile in profiles]
    for task in tasks:
        need = Need.from_task(task)._replace(aged=True)  # reserved workers take it in the end
        if not any(policy.can(s, need) for s in all_skills) and _would_wait_forever(
            task, all_skills
        ):
            raise UsageError(
                f"task {task.id}: {why_unable(all_skills, need)}; add a worker that can do it"
            )


def _would_wait_forever(task: Task, all_skills: Sequence[Skills]) -> bool:
    """Return whether a task that no worker can do waits for ever.

    To relax or to escalate its need does not help if no worker has a handler for its type.
    """
    if task.unroutable in {Unroutable.RELAX, Unroutable.ESCALATE}:
        return not any(handles(skills, task.type) for skills in all_skills)
    return task.unroutable is Unroutable.WAIT
