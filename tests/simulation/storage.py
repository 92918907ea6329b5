"""What lasts: the memory store as the disk that managers come and go on, and a log of all that was committed."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import NamedTuple, Self

from skillq.errors import Unreachable
from skillq_manager.core.commands import Command, Known
from skillq_manager.core.model import TaskKey
from skillq_manager.store.base import (
    LEASE_SECONDS,
    Body,
    Filter,
    LeadershipLost,
    LiveRow,
    RunRow,
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
    """Shared by all managers; one of them has the lease. Time is the loop's."""

    memory: MemoryStore
    chance: Random
    latency: float = 0.002
    fails: float = 0.0  # how often a commit fails, and nobody knows whether it was written
    log: list[Commit] = field(default_factory=list)
    holder: str | None = None
    expires_at: float = 0.0


class SimStore:
    """One manager's way to the disk. See `skillq_manager.store.base.Store`."""

    def __init__(self, disk: Disk, holder: str) -> None:
        self._disk = disk
        self._holder = holder
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
        """Let others run: a process may die between any two steps."""
        await asyncio.sleep(self._disk.latency * self._disk.chance.random())

    # --- leadership

    async def acquire(self) -> bool:
        await self._wait()
        disk, now = self._disk, asyncio.get_running_loop().time()
        if disk.holder not in {None, self._holder} and now < disk.expires_at:
            return False
        disk.holder, disk.expires_at = self._holder, now + LEASE_SECONDS
        await self._wait()
        return True

    async def release(self) -> None:
        await self._wait()
        if self._disk.holder == self._holder:
            self._disk.holder = None

    # --- journal

    async def commit(self, commands: Sequence[Command]) -> None:
        await self._wait()
        if self._disk.holder != self._holder:
            raise LeadershipLost("another manager has taken the lead")
        fails = self._disk.fails and self._disk.chance.random() < self._disk.fails
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

    async def load(self) -> AsyncIterator[list[LiveRow]]:
        async for page in self._disk.memory.load():
            await self._wait()
            yield page

    async def last_seq(self) -> int:
        await self._wait()
        return await self._disk.memory.last_seq()

    async def known(self, keys: Iterable[TaskKey]) -> Mapping[TaskKey, Known]:
        found = await self._disk.memory.known(keys)
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

    async def tasks(self, which: Filter) -> list[TaskRow]:
        return await self._disk.memory.tasks(which)

    async def task(self, key: TaskKey) -> TaskRow | None:
        await self._wait()
        return await self._disk.memory.task(key)

    async def workers(self) -> list[WorkerRow]:
        await self._wait()
        return await self._disk.memory.workers()
