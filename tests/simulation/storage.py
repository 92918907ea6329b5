"""Simulate the shared storage of all managers: a memory store with a log of all commits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import NamedTuple, Self

from skillq import timings
from skillq.errors import Unreachable
from skillq_manager.core.commands import Command, RefillRequest
from skillq_manager.core.events import BacklogPage, BacklogSummary, StoredStatus
from skillq_manager.core.model import TaskKey
from skillq_manager.store.base import (
    Body,
    LeadershipLost,
    LiveRow,
    RunRow,
    TaskFilter,
    TaskRow,
    WorkerRow,
)
from skillq_manager.store.memory import MemoryStore


class Commit(NamedTuple):
    at: float
    holder: str
    commands: tuple[Command, ...]


@dataclass(slots=True)
class Disk:
    """The storage that all managers share; one manager has the lease. Times are of the virtual loop."""

    memory: MemoryStore
    chance: Random
    latency: float = 0.002
    failure_rate: float = 0.0  # probability that a commit fails; it may be written or not
    crash: Callable[[], Awaitable[None]] | None = None  # kills the current process
    crash_rate: float = 0.0  # probability of a crash at each step
    log: list[Commit] = field(default_factory=list)
    holder: str | None = None  # None: the last leader has left in order
    epoch: int = 0
    expires_at: float = 0.0


class SimulatedStore:
    """The store of one manager. Implements `skillq_manager.store.base.Store`."""

    def __init__(self, disk: Disk, holder: str) -> None:
        self._disk = disk
        self._holder = holder
        self._epoch: int | None = None
        self.has_lost_leadership = False  # at the release: the state of its manager was stale
        self.id = disk.memory.id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def _wait(self) -> None:
        """Let other processes run. The process may die between any two steps."""
        disk = self._disk
        await asyncio.sleep(disk.latency * disk.chance.random())
        if disk.crash is not None and disk.chance.random() < disk.crash_rate:
            await disk.crash()

    # --- leadership

    @property
    def epoch(self) -> int:
        return self._epoch or 0

    async def acquire(self) -> bool:
        await self._wait()
        disk, now = self._disk, asyncio.get_running_loop().time()
        if self._epoch is None and (disk.holder is None or now >= disk.expires_at):
            disk.holder, disk.epoch = self._holder, disk.epoch + 1
            self._epoch = disk.epoch
        elif self._epoch != disk.epoch:
            self._epoch = None  # the state of this manager is stale
        if self._epoch is not None:
            disk.expires_at = now + timings.LEADER_LEASE_SECONDS
        await self._wait()
        return self._epoch is not None

    async def release(self) -> None:
        await self._wait()
        self.has_lost_leadership = self._epoch != self._disk.epoch
        if not self.has_lost_leadership:
            self._disk.holder = None
        self._epoch = None

    # --- commits and loading

    async def commit(self, commands: Sequence[Command]) -> None:
        await self._wait()
        if self._epoch is None or self._epoch != self._disk.epoch:
            self._epoch = None
            raise LeadershipLost("this manager does not lead; nothing was written")
        fails = self._disk.failure_rate and self._disk.chance.random() < self._disk.failure_rate
        if fails and self._disk.chance.random() < 0.5:
            raise Unreachable("the database failed")
        await self._write(commands)
        if fails:
            raise Unreachable("the database failed")
        await self._wait()

    async def _write(self, commands: Sequence[Command]) -> None:
        await self._disk.memory.commit(commands)
        now = asyncio.get_running_loop().time()
        self._disk.log.append(Commit(now, self._holder, tuple(commands)))

    async def load(self, *, include_backlog: bool = True) -> AsyncIterator[list[LiveRow]]:
        async for page in self._disk.memory.load(include_backlog=include_backlog):
            await self._wait()
            yield page

    async def backlog_summary(self) -> BacklogSummary:
        await self._wait()
        return await self._disk.memory.backlog_summary()

    async def backlog_page(self, wanted: RefillRequest) -> BacklogPage:
        found = await self._disk.memory.backlog_page(wanted)
        await self._wait()
        return found

    async def backlog_tasks(self, run: str, ids: Sequence[str] | None) -> list[LiveRow]:
        found = await self._disk.memory.backlog_tasks(run, ids)
        await self._wait()
        return found

    async def last_seq(self) -> int:
        await self._wait()
        return await self._disk.memory.last_seq()

    async def known_tasks(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, StoredStatus]:
        found = await self._disk.memory.known_tasks(keys)
        await self._wait()
        return found

    async def bodies(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Body]:
        found = await self._disk.memory.bodies(keys)
        await self._wait()
        return found

    # --- views

    async def runs(self) -> list[RunRow]:
        return await self._disk.memory.runs()

    async def run(self, run: str) -> RunRow | None:
        await self._wait()
        return await self._disk.memory.run(run)

    async def tasks(self, which: TaskFilter) -> list[TaskRow]:
        return await self._disk.memory.tasks(which)

    async def task(self, key: TaskKey) -> TaskRow | None:
        await self._wait()
        return await self._disk.memory.task(key)

    async def workers(self) -> list[WorkerRow]:
        await self._wait()
        return await self._disk.memory.workers()
