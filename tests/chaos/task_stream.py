"""Submit a steady stream of tasks of all kinds, and record how each task should end."""

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
    """Write a file for this execution; return the number of earlier executions."""
    before = len(list(done.glob(f"{context.id}.*")))
    (done / f"{context.id}.{uuid4().hex}").touch()
    return before


@handlers.task
def good(context: Context, seconds: float) -> str:
    note(context)
    time.sleep(seconds)
    return context.token


@handlers.task
def after(context: Context, expected_ids: list[str]) -> str:
    note(context)
    if sorted(context.dependencies) != sorted(expected_ids):
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


class TaskStream(threading.Thread):
    """Submit a batch of tasks regularly. Repeat each submission until the broker has confirmed it.

    `expected` has the status with which each task should end; `acknowledged` has the confirmed tasks.
    """

    def __init__(self, broker_url: str, seed: int) -> None:
        super().__init__(name="stream", daemon=True)
        self._url = broker_url
        self._random = Random(seed)
        self._stopped = threading.Event()
        self._number = 0
        self.expected: dict[str, str] = {}
        self.acknowledged: set[str] = set()
        self.failures = 0
        self.longest_submission = 0.0

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        while not self._stopped.is_set():
            batch = list(self._batch())
            began = monotonic()
            await self._submit(batch)
            self.longest_submission = max(self.longest_submission, monotonic() - began)
            self.acknowledged.update(task.id for task in batch)
            await asyncio.to_thread(self._stopped.wait, PAUSE_SECONDS)

    async def _submit(self, batch: list[Task]) -> None:
        """Repeat the submission until the broker has confirmed it. A repeated submission does no harm."""
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
            yield self._task("after", "succeeded", depends_on=tuple(both), expected_ids=[*both])
        elif chance < 0.25:
            bad = self._task("bad", "failed", max_attempts=2, no_retry_on=("ValueError",))
            yield bad
            yield self._task("after", "failed", depends_on=(bad.id,), expected_ids=[])
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
        expected_status: str,
        *,
        depends_on: tuple[str, ...] = (),
        max_attempts: int = 1,
        no_retry_on: tuple[str, ...] = (),
        timeout: float | None = None,
        **payload: JsonValue,
    ) -> Task:
        self._number += 1
        id = f"{type}-{self._number}"
        self.expected[id] = expected_status
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
