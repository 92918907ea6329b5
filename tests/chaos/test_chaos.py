"""Real services under many faults at once lose no task and count none twice.

`make chaos MINUTES=30` runs for longer; `SEED=…` repeats the faults of an earlier run.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest

from skillq.messages import TERMINAL
from tests.chaos.chaos_system import ChaosSystem
from tests.chaos.faults import plan
from tests.chaos.task_stream import HANDLERS, RUN
from tests.e2e.broker_faults import BrokerFaults
from tests.e2e.processes import System
from tests.support.broker import find_broker
from tests.support.postgres import Postgres

MINUTES = float(os.environ.get("SKILLQ_TEST_CHAOS_MINUTES", "0.8"))  # of faults, per store
SEED = int(os.environ.get("SKILLQ_TEST_CHAOS_SEED") or SystemRandom().randrange(1_000_000))
# A half-open connection is noticed after half a minute, and a lease may take as long.
RECOVERY_SECONDS = 150.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.rabbitmq,
    pytest.mark.timeout(MINUTES * 60 + RECOVERY_SECONDS + 240),
]

WORKERS = [f"worker-{n}" for n in range(4)]


@pytest.fixture(scope="module")
def broker_faults() -> Iterator[BrokerFaults]:
    """Yield the faults of a broker that only this module uses."""
    broker = find_broker(restartable=True)
    yield BrokerFaults(broker)
    broker.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def chaos_system(
    request: pytest.FixtureRequest, broker_faults: BrokerFaults, tmp_path: Path
) -> Iterator[ChaosSystem]:
    (tmp_path / "done").mkdir()
    (tmp_path / "chaos_tasks.py").write_text(HANDLERS)
    with ExitStack() as stack:
        broker_url = stack.enter_context(broker_faults.broker.vhost())
        store_url, managers = "sqlite:///skillq.db", ["manager"]
        if request.param == "postgresql":
            postgres: Postgres = request.getfixturevalue("postgres")
            store_url = stack.enter_context(postgres.database_sync())
            managers = ["manager-0", "manager-1"]
        system = stack.enter_context(System(broker_url, tmp_path))
        chaos_system = ChaosSystem(
            system,
            broker_faults,
            broker_url,
            store_url,
            managers=managers,
            workers=WORKERS,
            seed=SEED,
        )
        yield stack.enter_context(chaos_system)


@dataclass
class Report:
    """Counts of the tasks by their end."""

    submitted: int
    acknowledged: int
    succeeded: int = 0
    failed_as_they_should: int = 0
    # tasks that should succeed and whose workers died three times
    given_up: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    counted_twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    # number of executions -> number of tasks
    executions: Counter[int] = field(default_factory=Counter)
    longest_stall: float = 0.0
    recovered_in: float = 0.0

    def __str__(self) -> str:
        executions = ", ".join(f"{n} of {tasks}" for n, tasks in sorted(self.executions.items()))
        rows = {
            "submitted": self.submitted,
            "acknowledged": self.acknowledged,
            "succeeded": self.succeeded,
            "failed as they should": self.failed_as_they_should,
            "given up: three workers died": len(self.given_up),
            "lost": len(self.lost),
            "counted twice": len(self.counted_twice),
            "ended otherwise": len(self.wrong),
            "executions of how many tasks": executions,
            "longest stall": f"{self.longest_stall:.1f} s",
            "all was well again after": f"{self.recovered_in:.1f} s",
        }
        return "".join(f"  {name:<30}{value}\n" for name, value in rows.items())


def test_no_task_is_lost_and_none_is_counted_twice_under_chaos(
    chaos_system: ChaosSystem, tmp_path: Path
) -> None:
    faults = list(plan(SEED, MINUTES * 60, chaos_system.managers, chaos_system.workers))
    sys.stdout.write(f"\nchaos, {' and '.join(chaos_system.managers)}, seed {SEED}:\n")
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    chaos_system.stream.start()
    chaos_system.inject(faults, MINUTES * 60)
    chaos_system.stream.stop()
    recovered_in = recover(chaos_system)
    report = make_report(chaos_system, tmp_path / "done")
    report.recovered_in = recovered_in
    sys.stdout.write(f"{report}\n")
    sys.stdout.writelines(f"  given up: {one}\n" for one in report.given_up)
    assert not report.lost
    assert not report.counted_twice
    assert not report.wrong
    assert not chaos_system.unexpected_exits, "no process should exit unless a fault has killed it"
    assert report.submitted == report.acknowledged
    # A slow machine submits few tasks, and many of them may be tasks that should fail.
    should_succeed = sum(
        chaos_system.stream.expected[id] == "succeeded" for id in chaos_system.stream.acknowledged
    )
    assert report.succeeded > should_succeed / 2
    assert len(report.given_up) <= report.submitted / 10


def recover(chaos_system: ChaosSystem) -> float:
    """Wait until all acknowledged tasks have ended; return the seconds that this took."""
    began = time.monotonic()
    total = len(chaos_system.stream.acknowledged)
    while time.monotonic() - began < RECOVERY_SECONDS:
        counts = chaos_system.counts()
        if sum(counts.get(status, 0) for status in TERMINAL) >= total:
            break
        chaos_system.restart_exited()
    return time.monotonic() - began


def make_report(chaos_system: ChaosSystem, done: Path) -> Report:
    stream = chaos_system.stream
    report = Report(len(stream.expected), len(stream.acknowledged))
    rows = {row["id"]: row for row in chaos_system.tasks()}
    for id in stream.acknowledged:
        judge_task(report, chaos_system, id, rows.get(id))
    if sum(chaos_system.counts().values()) != len(rows):
        report.counted_twice.append(f"{chaos_system.counts()} of {len(rows)} tasks")
    report.counted_twice += tasks_reported_twice(chaos_system)
    times = Counter(path.name.partition(".")[0] for path in done.iterdir())
    report.executions = Counter(times[id] for id in stream.acknowledged)
    ends = sorted(
        datetime.fromisoformat(row["finished_at"]) for row in rows.values() if row["finished_at"]
    )
    gaps = (later - earlier for earlier, later in pairwise(ends))
    report.longest_stall = max((gap.total_seconds() for gap in gaps), default=0.0)
    return report


def judge_task(
    report: Report, chaos_system: ChaosSystem, id: str, row: dict[str, Any] | None
) -> None:
    """Add this task to the report."""
    if row is None or row["status"] not in TERMINAL:
        report.lost.append(f"{id}: {row and (row['status'], row['reason'])}")
        return
    page = chaos_system.get_json(f"/api/tasks/{RUN}/{id}")
    counted = [one for one in page["attempts"] if one["counted"]]
    successes = [one["attempt"] for one in counted if one["outcome"] == "succeeded"]
    numbers = [one["attempt"] for one in counted]
    if len(successes) > 1 or len(set(numbers)) < len(numbers):
        report.counted_twice.append(f"{id}: {page['attempts']}")
    if row["status"] == "succeeded" and row["output"] != f"{RUN}/{id}:{row['attempt']}":
        report.wrong.append(f"{id}: attempt {row['attempt']} gave {row['output']}")
    losses = sum(1 for one in counted if one["outcome"] == "lost")
    depends_on_unlucky = row["status"] == "failed" and "dead_lettered" in (row["reason"] or "")
    if row["status"] == chaos_system.stream.expected[id]:
        report.succeeded += row["status"] == "succeeded"
        report.failed_as_they_should += row["status"] != "succeeded"
    elif (row["status"] == "dead_lettered" and losses >= 3) or depends_on_unlucky:
        fell_with = [(one["worker"], one["error"]) for one in counted]
        report.given_up.append(f"{id}: {row['reason']}: {fell_with}")
    else:
        report.wrong.append(f"{id}: {row['status']}, {row['reason']}: {page['attempts']}")


def tasks_reported_twice(chaos_system: ChaosSystem) -> list[str]:
    """Return the tasks that managers have logged more than once as ended."""
    logged = Counter(
        entry["task"][1]
        for process in chaos_system.all_processes
        for entry in process.logged("task_ended")
        if "now" not in entry
    )
    return [f"{id}: logged {n} times" for id, n in logged.items() if n > 1]
