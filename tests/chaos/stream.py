"""A steady stream of tasks of all kinds, and how each of them should end."""

import asyncio
import threading
from collections.abc import Iterator
from random import Random
from time import monotonic

from pydantic import JsonValue

from skillq.client import Client
from skillq.errors import SkillqError
from skillq.messages import Task
from skillq.transport.rabbitmq import RabbitTransport

RUN = "chaos"
PAUSE_SECONDS = 0.4  # between batches

HANDLERS = '''
import os
import signal
import time
from pathlib import Path
from uuid import uuid4

from skillq_worker import Context, Handlers

handlers = Handlers()
done = Path("done")


def note(context: Context) -> int:
    """Leave a file per execution; how many there were before."""
    before = len(list(done.glob(f"{context.id}.*")))
    (done / f"{context.id}.{uuid4().hex}").touch()
    return before


@handlers.task
def good(context: Context, seconds: float) -> str:
    note(context)
    time.sleep(seconds)
    return context.token


@handlers.task
def after(context: Context, wants: list[str]) -> str:
    note(context)
    if sorted(context.dependencies) != sorted(wants):
        raise ValueError(f"has only {sorted(context.dependencies)}")
    return context.token


@handlers.task
def flaky(context: Context) -> str:
    if not note(context):
        raise OSError("the first time")
    return context.token


@handlers.task
def bad(context: Context) -> str:
    note(context)
    raise ValueError("as it should")


@handlers.task
def slow(context: Context) -> str:
    note(context)
    time.sleep(3)
    return context.token


@handlers.task
def lethal(context: Context, times: int) -> str:
    if note(context) < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return context.token
'''


class Stream(threading.Thread):
    """Submits a batch now and then, each until the broker has taken it.

    `expected` says how each task should end; `acknowledged` are those that the broker confirmed.
    """

    def __init__(self, broker_url: str, seed: int) -> None:
        super().__init__(name="stream", daemon=True)
        self._url = broker_url
        self._random = Random(seed)
        self._over = threading.Event()
        self._number = 0
        self.expected: dict[str, str] = {}
        self.acknowledged: set[str] = set()
        self.failures = 0
        self.longest = 0.0

    def end(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        while not self._over.is_set():
            batch = list(self._batch())
            began = monotonic()
            await self._submit(batch)
            self.longest = max(self.longest, monotonic() - began)
            self.acknowledged.update(task.id for task in batch)
            await asyncio.to_thread(self._over.wait, PAUSE_SECONDS)

    async def _submit(self, batch: list[Task]) -> None:
        """Until it has been taken, whatever happens: the same again is no harm."""
        while True:
            try:
                async with RabbitTransport(
                    self._url, app_id="stream", connection_name="stream"
                ) as transport:
                    await Client(transport, name="stream").submit(RUN, batch, wait=0)
            except SkillqError:
                self.failures += 1
            else:
                return

    def _batch(self) -> Iterator[Task]:
        chance = self._random.random()
        first = self._task("good", "succeeded", seconds=round(self._random.uniform(0, 0.5), 2))
        yield first
        if chance < 0.15:
            second = self._task("flaky", "succeeded", max_attempts=3)
            yield second
            both = [first.id, second.id]
            yield self._task("after", "succeeded", depends_on=tuple(both), wants=[*both])
        elif chance < 0.25:
            bad = self._task("bad", "failed", max_attempts=2, no_retry_on=("ValueError",))
            yield bad
            yield self._task("after", "failed", depends_on=(bad.id,), wants=[])
        elif chance < 0.32:
            yield self._task("slow", "timed_out", timeout=0.5)
        elif chance < 0.36:
            yield self._task("lethal", "succeeded", times=1)
        elif chance < 0.38:
            yield self._task("lethal", "dead_lettered", times=100)
        elif chance < 0.5:
            yield self._task("good", "succeeded", seconds=2.0)

    def _task(
        self,
        type: str,
        ends: str,
        *,
        depends_on: tuple[str, ...] = (),
        max_attempts: int = 1,
        no_retry_on: tuple[str, ...] = (),
        timeout: float | None = None,
        **payload: JsonValue,
    ) -> Task:
        self._number += 1
        id = f"{type}-{self._number}"
        self.expected[id] = ends
        return Task(
            id=id,
            type=type,
            difficulty=self._random.randint(1, 5),
            depends_on=depends_on,
            max_attempts=max_attempts,
            no_retry_on=no_retry_on,
            timeout=timeout,
            payload=payload,
        )
