"""Measure the store alone: steps in batches, start from a backlog, memory per task.

Run: python -m benchmarks.store [--tasks 20000] [--backlogs 100000 1000000] [--postgresql URL]

Plain `sqlite3` (one table, one index, `executemany`, the same durability) alternates with it, round by round: the
ratio shows the cost of the store, whatever else the disk does. PostgreSQL is measured in a new
database of the given server.
"""

import argparse
import asyncio
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]

from skillq.messages import Outcome, Task, TaskResult, TaskStatus, WorkerProfile
from skillq_manager.core import commands as c
from skillq_manager.core.model import Need
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import BACKLOG_KEEP, State
from skillq_manager.store.sql.store import SqlStore

STEPS = ("insert", "assign", "finish")
SIZES = (1, 10, 100, 1000)
ROUNDS = 3
RUN = "bench"
ADA = WorkerProfile(name="ada", title="Ada", incarnation="0123456789abcdef", skill=5)

Costs = dict[str, float]  # by step, µs per task


def adds(first: int, count: int, **more: Any) -> list[c.AddTask]:
    tasks = [
        Task.model_validate(
            {
                "id": f"task-{n}",
                "difficulty": 1 + n % 10,
                "description": f"Do {n}",
                "payload": {"n": n},
            }
            | more
        )
        for n in range(first, first + count)
    ]
    return [
        c.AddTask((RUN, t.id), n, RUN, t, t.fingerprint(), TaskStatus.READY, 1000.0)
        for n, t in enumerate(tasks, first)
    ]


def assigns(added: Sequence[c.AddTask]) -> list[c.Assign]:
    return [c.Assign(one.key, "task", 1, ADA, 1001.0) for one in added]


def ends(added: Sequence[c.AddTask]) -> list[c.EndAttempt]:
    return [_end(*one.key) for one in added]


def _end(run: str, id: str) -> c.EndAttempt:
    result = TaskResult(
        run=run,
        id=id,
        attempt=1,
        outcome=Outcome.SUCCEEDED,
        output={"ok": True},
        started_at=1001.5,
        finished_at=1002.0,
    )
    ended = Outcome.SUCCEEDED, TaskStatus.SUCCEEDED, None, result, None, 0, 0, 1002.0
    return c.EndAttempt((run, id), "task", 1, ADA, *ended)


def parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[n : n + size] for n in range(0, len(items), size))


# --- batches


async def batches(store: SqlStore, first: int, tasks: int, size: int) -> Costs:
    added = adds(first, tasks)
    costs: Costs = {}
    steps: list[Sequence[c.Command]] = [added, assigns(added), ends(added)]
    for step, commands in zip(STEPS, steps, strict=True):
        started = time.perf_counter()
        for part in parts(commands, size):
            await store.commit(part)
        costs[step] = (time.perf_counter() - started) / tasks * 1e6
    return costs


def plain(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE t (seq INTEGER PRIMARY KEY, run TEXT, id TEXT, status TEXT, attempt INT, worker TEXT,"
        " at REAL, output TEXT, body TEXT)"
    )
    connection.execute("CREATE UNIQUE INDEX t_key ON t (run, id)")
    return connection


def plain_batches(connection: sqlite3.Connection, first: int, tasks: int, size: int) -> Costs:
    added = adds(first, tasks)
    work: dict[str, tuple[str, list[Any]]] = {
        "insert": (
            "INSERT INTO t VALUES (?, ?, ?, 'ready', 0, NULL, NULL, NULL, ?)",
            [(one.seq, *one.key, '{"difficulty":5,"payload":{"n":1}}') for one in added],
        ),
        "assign": (
            "UPDATE t SET status = 'assigned', attempt = 1, worker = ?, at = ?"
            " WHERE run = ? AND id = ? AND status = 'ready' AND attempt = 0",
            [("Ada", 1001.0, *one.key) for one in added],
        ),
        "finish": (
            "UPDATE t SET status = 'succeeded', output = ?, at = ?"
            " WHERE run = ? AND id = ? AND attempt = 1 AND status IN ('assigned', 'running')",
            [('{"ok":true}', 1002.0, *one.key) for one in added],
        ),
    }
    costs: Costs = {}
    for step, (statement, rows) in work.items():
        started = time.perf_counter()
        for part in parts(rows, size):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, part)
            connection.execute("COMMIT")
        costs[step] = (time.perf_counter() - started) / tasks * 1e6
    return costs


async def compare(folder: Path, tasks: int) -> None:
    print("µs per task, SQLite with synchronous=FULL (and as a multiple of plain sqlite3)")
    reference = plain(folder / "plain.db")
    async with SqlStore(f"sqlite:///{folder}/ours.db") as store:
        await store.acquire()
        first = 1
        for size in SIZES:
            count = min(tasks, 500 * size)
            ours, theirs = [], []
            for _ in range(ROUNDS):
                theirs.append(plain_batches(reference, first, count, size))
                ours.append(await batches(store, first, count, size))
                first += count
            print(f"  in batches of {size:4}: {_line(ours, theirs)}")
    reference.close()


def _line(ours: list[Costs], theirs: list[Costs] | None = None) -> str:
    words = []
    for step in STEPS:
        cost = median(costs[step] for costs in ours)
        ratio = ""
        if theirs is not None:
            ratio = f" ({cost / median(costs[step] for costs in theirs):.1f} x)"
        words.append(f"{step} {cost:7.1f}{ratio}")
    return "  ".join(words)


async def on_postgresql(url: str, tasks: int) -> None:
    print("µs per task, PostgreSQL")
    async with database(url) as own, SqlStore(own) as store:
        await store.acquire()
        first = 1
        for size in SIZES:
            count = min(tasks, 200 * size)
            costs = []
            for _ in range(ROUNDS):
                costs.append(await batches(store, first, count, size))
                first += count
            print(f"  in batches of {size:4}: {_line(costs)}")


@asynccontextmanager
async def database(url: str) -> AsyncIterator[str]:
    """Create a database on this server, yield its URL, and drop it afterwards."""
    name = f"bench_{uuid4().hex[:8]}"
    server: Any = await asyncpg.connect(url)
    await server.execute(f"CREATE DATABASE {name}")
    try:
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
    finally:
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


# --- a backlog


async def fill(url: str, backlog: int, **more: Any) -> None:
    """Fill a store as a manager would leave it: tasks far behind are in the backlog."""
    counts: Counter[Need] = Counter()
    async with SqlStore(url) as store:
        await store.acquire()
        for first in range(1, backlog + 1, 5000):
            added = adds(first, min(5000, backlog + 1 - first), **more)
            await store.commit([_into_backlog(one, counts) for one in added])


def _into_backlog(one: c.AddTask, counts: Counter[Need]) -> c.AddTask:
    need = Need.from_task(one.task)
    counts[need] += 1
    return one if counts[need] <= BACKLOG_KEEP else replace(one, backlog=need)


async def time_of_counts(url: str) -> float:
    """Return the milliseconds that the counts of all runs take."""
    async with SqlStore(url) as store:
        await store.runs()
        started = time.perf_counter()
        await store.runs()
        return (time.perf_counter() - started) * 1e3


async def start(url: str, restore: bool) -> None:
    """Load a store; print the seconds, the bytes per waiting task and the peak in MiB.

    This function runs in a process of its own.
    """
    async with SqlStore(url) as store:
        state = State(BestFit(), chance=random.random, backlog_keep=BACKLOG_KEEP)
        before, started = resident_bytes(), time.perf_counter()
        count = 0
        state.begin_restore([], await store.last_seq(), 1000.0)
        async for page in store.load(include_backlog=not restore):
            count += len(page)
            if restore:
                state.restore(page)
        backlog = await store.backlog_summary()
        state.end_restore(backlog)
        count = max(count, sum(backlog.ready.values()))
        took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(took, (resident_bytes() - before) / count, peak / 2**20)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run_in_process(url: str, option: str) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.store", option, url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


async def backlogs(folder: Path, sizes: Sequence[int]) -> None:
    print("start from a backlog, SQLite")
    for backlog in sizes:
        url = f"sqlite:///{folder}/{backlog}.db"
        await fill(url, backlog)
        for option, words in (("--load", "rows only"), ("--restore", "rows into the core")):
            took, each, peak = run_in_process(url, option)
            print(
                f"  {backlog:8,} tasks, {words:18}: {took:6.2f} s,"
                f" {each:6.0f} bytes more per task, peak {peak:5.0f} MiB"
            )
        print(f"  {backlog:8,} tasks, counts of all runs: {await time_of_counts(url):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--backlogs", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--postgresql", metavar="URL")
    parser.add_argument("--load", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--restore", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load or options.restore:
        asyncio.run(start(options.load or options.restore, restore=bool(options.restore)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(compare(folder, options.tasks))
        asyncio.run(backlogs(folder, options.backlogs))
    if options.postgresql:
        asyncio.run(on_postgresql(options.postgresql, options.tasks))


if __name__ == "__main__":
    main()
