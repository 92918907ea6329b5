"""A system of processes on a vhost of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import TIME_SCALE, System
from tests.e2e.proxy import Proxy
from tests.postgres import Postgres

MY_TASKS = '''
import asyncio
import os
import time
from pathlib import Path
from uuid import uuid4

from skillq_worker import Context, Handlers

handlers = Handlers()
other = Handlers()
done = Path("done")


def note(name: str) -> None:
    (done / f"{name}.{uuid4().hex}").touch()


@handlers.task
def work(context: Context, seconds: float = 0.0) -> str:
    note(f"begun-{context.id}")
    time.sleep(seconds)
    note(f"ended-{context.id}")
    return context.id


@handlers.task
async def join(context: Context, sep: str = "-") -> str:
    return sep.join(str(output) for output in context.dependencies.values())


@handlers.task
async def once(context: Context) -> int:
    """Holds up the first worker that gets it, for ever."""
    note("once")
    if context.attempt == 1:
        await asyncio.sleep(600)
    return context.attempt


@handlers.task
def bad() -> None:
    raise SystemExit("whatever I do")


@other.task
def speech(words: list[str]) -> int:
    return len(words)
'''


def lay_out(here: Path) -> None:
    """Put what the processes need where they run."""
    (here / "done").mkdir()
    (here / "my_tasks.py").write_text(MY_TASKS)


@pytest.fixture
def shared_store(postgres: Postgres) -> Iterator[str]:
    """The URL of a store that several managers may share."""
    with postgres.own_database() as url:
        yield url


@pytest.fixture
def proxy(broker_url: str) -> Iterator[Proxy]:
    """A way to the broker that can be cut."""
    with Proxy(broker_url) as proxy:
        yield proxy


@pytest.fixture
def time_scale() -> float:
    """How long the waits of the protocol are, as a part of the real ones; `real_durations` sets 1."""
    return TIME_SCALE


@pytest.fixture
def system(broker_url: str, tmp_path: Path, time_scale: float) -> Iterator[System]:
    lay_out(tmp_path)
    with System(broker_url, tmp_path, time_scale) as system:
        yield system
