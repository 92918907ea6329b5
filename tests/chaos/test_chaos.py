"""Everything goes wrong at once, for a while; then nothing is lost, and nothing counted twice.

`make chaos MINUTES=30` goes on for longer; `SEED=…` tells the same faults again.
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
from tests.broker import find_broker
from tests.chaos.faults import plan
from tests.chaos.fleet import Fleet
from tests.chaos.stream import HANDLERS, RUN
from tests.e2e.processes import System
from tests.e2e.wreck import Wreck

MINUTES = float(os.environ.get("SKILLQ_TEST_CHAOS_MINUTES", "0.8"))  # of faults, per store
SEED = int(os.environ.get("SKILLQ_TEST_CHAOS_SEED") or SystemRandom().randrange(1_000_000))
RECOVERY_SECONDS = (
    150.0  # half-open connections take half a minute to be noticed, and then leases as long
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.rabbitmq,
    pytest.mark.timeout(MINUTES * 60 + RECOVERY_SECONDS + 240),
]

WORKERS = [f"worker-{n}" for n in range(4)]


@pytest.fixture(scope="module")
def wreck() -> Iterator[Wreck]:
    """A broker that nobody else needs."""
    broker = find_broker(restartable=True)
    yield Wreck(broker)
    broker.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, wreck: Wreck, tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "done").mkdir()
    (tmp_path / "chaos_tasks.py").write_text(HANDLERS)
    with ExitStack() as stack:
        broker_url = stack.enter_context(wreck.broker.vhost())
        store_url, managers = "sqlite:///skillq.db", ["manager"]
        if request.param == "postgresql":
            store_url = stack.enter_context(request.getfixturevalue("postgres").own_database())
            managers = ["manager-0", "manager-1"]
        system = stack.enter_context(System(broker_url, tmp_path))
        fleet = Fleet(
            system,
            wreck,
            broker_url,
            store_url,
            managers=managers,
            workers=WORKERS,
            seed=SEED,
        )
        yield stack.enter_context(fleet)


@dataclass
class Report:
    """What became of it all."""

    submitted: int
    acknowledged: int
    succeeded: int = 0
    failed_as_they_should: int = 0
    given_up: list[str] = field(default_factory=list)  # good ones, whose workers died three times
    lost: list[str] = field(default_factory=list)
    counted_twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    executions: Counter[int] = field(default_factory=Counter)  # how many tasks had how many
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


def test_nothing_is_lost_and_nothing_counted_twice(fleet: Fleet, tmp_path: Path) -> None:
    faults = list(plan(SEED, MINUTES * 60, fleet.managers, fleet.workers))
    sys.stdout.write(f"\nchaos, {' and '.join(fleet.managers)}, seed {SEED}:\n")
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    fleet.stream.start()
    fleet.suffer(faults, MINUTES * 60)
    fleet.stream.end()
    recovered_in = recover(fleet)
    report = report_on(fleet, tmp_path / "done")
    report.recovered_in = recovered_in
    sys.stdout.write(f"{report}\n")
    sys.stdout.writelines(f"  given up: {one}\n" for one in report.given_up)
    assert not report.lost
    assert not report.counted_twice
    assert not report.wrong
    assert not fleet.left, "a process that nobody killed should stay"
    assert report.submitted == report.acknowledged
    # A slow machine submits few tasks, and chance may draw many that should fail.
    wanted = sum(fleet.stream.expected[id] == "succeeded" for id in fleet.stream.acknowledged)
    assert report.succeeded > wanted / 2
    assert len(report.given_up) <= report.submitted / 10


def recover(fleet: Fleet) -> float:
    """Wait until all that was acknowledged has ended; how long that took."""
    began = time.monotonic()
    total = len(fleet.stream.acknowledged)
    while time.monotonic() - began < RECOVERY_SECONDS:
        counts = fleet.counts()
        if sum(counts.get(status, 0) for status in TERMINAL) >= total:
            break
        fleet.tick()
    return time.monotonic() - began


def report_on(fleet: Fleet, done: Path) -> Report:
    stream = fleet.stream
    report = Report(len(stream.expected), len(stream.acknowledged))
    rows = {row["id"]: row for row in fleet.tasks()}
    for id in stream.acknowledged:
        judge(report, fleet, id, rows.get(id))
    if sum(fleet.counts().values()) != len(rows):
        report.counted_twice.append(f"{fleet.counts()} of {len(rows)} tasks")
    report.counted_twice += ended_again(fleet)
    times = Counter(path.name.partition(".")[0] for path in done.iterdir())
    report.executions = Counter(times[id] for id in stream.acknowledged)
    ends = sorted(
        datetime.fromisoformat(row["finished_at"]) for row in rows.values() if row["finished_at"]
    )
    gaps = (later - earlier for earlier, later in pairwise(ends))
    report.longest_stall = max((gap.total_seconds() for gap in gaps), default=0.0)
    return report


def judge(report: Report, fleet: Fleet, id: str, row: dict[str, Any] | None) -> None:
    """Where this task belongs in the report."""
    if row is None or row["status"] not in TERMINAL:
        report.lost.append(f"{id}: {row and (row['status'], row['reason'])}")
        return
    page = fleet.ask(f"/api/tasks/{RUN}/{id}")
    counted = [one for one in page["attempts"] if one["counted"]]
    good = [one["attempt"] for one in counted if one["outcome"] == "succeeded"]
    numbers = [one["attempt"] for one in counted]
    if len(good) > 1 or len(set(numbers)) < len(numbers):
        report.counted_twice.append(f"{id}: {page['attempts']}")
    if row["status"] == "succeeded" and row["output"] != f"{RUN}/{id}:{row['attempt']}":
        report.wrong.append(f"{id}: attempt {row['attempt']} gave {row['output']}")
    fell = sum(1 for one in counted if one["outcome"] == "lost")
    depends_on_unlucky = row["status"] == "failed" and "dead_lettered" in (row["reason"] or "")
    if row["status"] == fleet.stream.expected[id]:
        report.succeeded += row["status"] == "succeeded"
        report.failed_as_they_should += row["status"] != "succeeded"
    elif (row["status"] == "dead_lettered" and fell >= 3) or depends_on_unlucky:
        fell_with = [(one["worker"], one["error"]) for one in counted]
        report.given_up.append(f"{id}: {row['reason']}: {fell_with}")
    else:
        report.wrong.append(f"{id}: {row['status']}, {row['reason']}: {page['attempts']}")


def ended_again(fleet: Fleet) -> list[str]:
    """Tasks that managers have said twice to have succeeded."""
    said = Counter(
        entry["task"][1]
        for process in fleet.ever
        for entry in process.logged("task_ended")
        if "now" not in entry
    )
    return [f"{id}: said {n} times" for id, n in said.items() if n > 1]
