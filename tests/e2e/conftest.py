"""Start a system of processes on its own vhost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import TIME_SCALE, System
from tests.e2e.proxy import Proxy
from tests.support.postgres import Postgres

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


def touch_file(name: str) -> None:
    (done / f"{name}.{uuid4().hex}").touch()


@handlers.task
def work(context: Context, seconds: float = 0.0) -> str:
    touch_file(f"started-{context.id}")
    time.sleep(seconds)
    touch_file(f"ended-{context.id}")
    return context.id


@handlers.task
async def join(context: Context, sep: str = "-") -> str:
    return sep.join(str(output) for output in context.dependencies.values())


@handlers.task
async def once(context: Context) -> int:
    """Block the worker of the first attempt for ever."""
    touch_file("once")
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


def prepare_folder(folder: Path) -> None:
    """Write the files that the processes need to the folder where they run."""
    (folder / "done").mkdir()
    (folder / "my_tasks.py").write_text(MY_TASKS)


@pytest.fixture
def shared_store(postgres: Postgres) -> Iterator[str]:
    """Yield the URL of a store that several managers may share."""
    with postgres.database_sync() as url:
        yield url


@pytest.fixture
def proxy(broker_url: str) -> Iterator[Proxy]:
    """Yield a proxy to the broker whose connections can be cut."""
    with Proxy(broker_url) as proxy:
        yield proxy


@pytest.fixture
def time_scale() -> float:
    """Return the factor for all durations of the protocol; `real_durations` sets it to 1."""
    return TIME_SCALE


@pytest.fixture
def system(broker_url: str, tmp_path: Path, time_scale: float) -> Iterator[System]:
    prepare_folder(tmp_path)
    with System(broker_url, tmp_path, time_scale) as system:
        yield system
