# mypy: enable-error-code="explicit-override"
"""Bugs that a test can switch on. The simulation must find each of them.

`override` lets the type checker refuse a bug whose method has another name in the product: it would plant nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from typing_extensions import override

from skillq.messages import (
    TaskAssignment,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerProfile,
)
from skillq.transport import Consumer, Delivery
from skillq_manager.core import commands as c
from skillq_manager.core.dispatch.recall import Recalls
from skillq_manager.core.model import TaskEntry, WorkerEntry
from skillq_manager.core.state import State
from skillq_manager.core.workers import Workers
from skillq_manager.manager import Manager
from skillq_manager.store import preconditions
from skillq_manager.store.memory import MemoryStore
from skillq_worker.worker import Worker, _to_attempt
from tests.simulation.checker import Report, check
from tests.simulation.components import Components
from tests.simulation.run import simulate
from tests.simulation.storage import SimulatedStore

_Deliveries = Sequence[tuple[Consumer, Sequence[Delivery]]]


class AcksBeforeCommit(Manager):
    @override
    async def _carry_out(
        self, commands: Sequence[c.Command], to_acknowledge: _Deliveries = ()
    ) -> None:
        for consumer, deliveries in to_acknowledge:
            await consumer.ack(deliveries)
        await super()._carry_out(commands)


class PublishesBeforeCommit(Manager):
    """Publish assignments before the commit, and never resend them: see `_no_resend`."""

    @override
    async def _carry_out(
        self, commands: Sequence[c.Command], to_acknowledge: _Deliveries = ()
    ) -> None:
        added = {command.key for command in commands if isinstance(command, c.AddTask)}
        early = [o for o in commands if isinstance(o, c.Assign) and o.key not in added]
        if early:
            await self._send(early)
        others = [o for o in commands if o not in early]
        if commands:
            await self.store.commit(commands)
            await self._send(others)
        for consumer, deliveries in to_acknowledge:
            await consumer.ack(deliveries)
        await self._notify_requesters(c.Decisions(commands))

    async def _send(self, commands: Sequence[c.Command]) -> None:
        decided = c.Decisions(commands)
        await self._outbox.send(decided, self._outbox.event_messages(decided))


def _no_resend(self: Workers, worker: WorkerEntry, held: object) -> None:
    """Do not resend assignments that a worker does not have."""


def _no_recall(self: Recalls, worker: WorkerEntry, idle: object) -> None:
    """Do not recall prefetched attempts."""


class AcceptsAnyAttempt(State):
    """Accept a result from the worker of the current attempt, whatever the number of the result."""

    @override
    def _current_task(self, ref: Any, worker: WorkerEntry | None) -> TaskEntry | None:
        task = self.tasks.live.get((ref.run, ref.id))
        return task if task is not None and task.worker is worker is not None else None


class CountsResultOfDeadLease(State):
    """Count a result after its lease has ended, if the task is not assigned again."""

    @override
    def _on_results(self, event: TaskResults) -> None:
        for result in event.results:
            task = self.tasks.live.get((result.run, result.id))
            if (
                task is not None
                and task.status is TaskStatus.READY
                and task.attempt == result.attempt
            ):
                self._count(task, result, event)
            else:
                super()._on_results(event.model_copy(update={"results": (result,)}))

    def _count(self, task: TaskEntry, result: TaskResult, event: TaskResults) -> None:
        profile = WorkerProfile(
            name=event.worker, title=event.worker, incarnation=event.incarnation, skill=1
        )
        dead = WorkerEntry(profile, 0, 0.0)
        self.board.discard_task(task)
        task.retry_at = None
        task.status = TaskStatus.ASSIGNED
        task.worker = dead
        dead.attempts[task.key] = task
        self.tasks.end_attempt(task, dead, result.outcome, reason=result.error, result=result)


class ForgetsAckedAssignment(Worker):
    """Acknowledge some assignments and never run them."""

    @override
    def _accept_assignment(self, task: TaskAssignment) -> None:
        super()._accept_assignment(task)
        if self._slots.running:
            self._slots.remove_waiting(_to_attempt(task))


class LosesLastCommit(SimulatedStore):
    """Lose the last commit of a manager that died, as a disk without fsync does."""

    @override
    async def acquire(self) -> bool:
        before = self._disk.holder
        acquired = await super().acquire()
        if acquired and before not in {None, self._holder}:
            await self._roll_back()
        return acquired

    async def _roll_back(self) -> None:
        disk = self._disk
        del disk.log[-1:]
        memory = MemoryStore()
        memory.id = disk.memory.id
        for commit in disk.log:
            await memory.commit(commit.commands)
        disk.memory = memory


@contextmanager
def patched(*patches: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


def _with_dead_counted() -> Any:
    return patch.dict(preconditions.FROM, {c.EndAttempt: preconditions.HELD | {TaskStatus.READY}})


PLANTED_BUGS: dict[str, tuple[Components, Sequence[Any]]] = {
    "ack before commit": (Components(manager=AcksBeforeCommit, state=State), ()),
    "no attempt check": (Components(state=AcceptsAnyAttempt), ()),
    "result counted on a dead lease": (
        Components(state=CountsResultOfDeadLease),
        (_with_dead_counted(),),
    ),
    "publish before commit, and never again": (
        Components(manager=PublishesBeforeCommit, state=State),
        (patch.object(Workers, "_resend_missing", _no_resend),),
    ),
    "worker acks, and forgets": (Components(worker=ForgetsAckedAssignment, state=State), ()),
    "nothing is recalled": (Components(), (patch.object(Recalls, "_recall_from", _no_recall),)),
    "last batch lost in a crash": (Components(store=LosesLastCommit, state=State), ()),
}


def run_with_bug(bug: str, seed: int) -> Report:
    parts, patches = PLANTED_BUGS[bug]
    with patched(*patches):
        return check(simulate(seed, parts=parts))
