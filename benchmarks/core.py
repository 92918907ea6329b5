"""Measure the decisions per second of the core: `python -m benchmarks.core [--json]`.

One decision is the end of a task and the assignment that follows, with everything that `State.handle` does
between events and commands. The time to make the events does not count, and there is no I/O.
Between rounds, and outside the measured time, new tasks replace those that were assigned.
"""

import argparse
import gc
import json
import os
import platform
import random
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from time import process_time
from typing import Any

from skillq.messages import (
    Connect,
    Heartbeat,
    Outcome,
    Submission,
    Task,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerProfile,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.rules.matching import Arrival, BestFit, Policy
from skillq_manager.core.state import State

WAITING, WORKERS, DECISIONS = 100_000, 1_000, 20_000
PACE = 50_000  # decisions per second of the state's clock
CHUNK = 1_000  # tasks in one submission

Make = Callable[[int, random.Random], dict[str, Any]]


def mixed_tasks(_: int, rng: random.Random) -> dict[str, Any]:
    task_type = rng.choice(("task", "ocr", "gpu", "lab", "mail"))
    return {"difficulty": rng.randint(1, 10), "priority": rng.randint(1, 5), "type": task_type}


def mixed_workers(i: int, rng: random.Random) -> dict[str, Any]:
    specialties = rng.sample(("ocr", "gpu", "lab"), rng.randint(0, 1))
    return {"skill": 10 if i % 10 == 0 else rng.randint(1, 10), "specialties": specialties}


@dataclass(frozen=True)
class Shape:
    name: str
    task: Make = mixed_tasks
    worker: Make = mixed_workers
    policy: Callable[[], Policy] = BestFit
    open: int = WAITING + WORKERS  # tasks that wait or are assigned
    stuck: int = 0  # further tasks, urgent ones, that no worker can do
    batch: int = 1_000
    decisions: int = DECISIONS
    seconds: float | None = (
        None  # duration of attempts; None: not reported, so that nothing is prefetched
    )
    failing: float = 0.0  # share of attempts that fail and are retried by other workers

    @property
    def flows(self) -> bool:
        """Whether only stuck tasks wait; then a decision includes a submission."""
        return self.open < WORKERS

    @property
    def waiting(self) -> int:
        return max(0, self.open - WORKERS) + self.stuck


@dataclass
class Measured:
    shape: str
    waiting: int
    batch: int
    per_second: int
    microseconds: float  # for one decision
    submitted_per_second: int


@dataclass
class CoreHarness:
    """A state with its workers and tasks, and the assignments for which results can be sent."""

    shape: Shape
    now: float = 0.0
    last_heartbeat: float = 0.0
    assigned: deque[c.Assign] = field(default_factory=deque)
    profiles: list[WorkerProfile] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=lambda: count(1))
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.state = State(self.shape.policy(), chance=self.rng.random)
        stuck = [
            self.task(difficulty=10, requires=("nobody",), priority=100)
            for _ in range(self.shape.stuck)
        ]
        self.submit(stuck)
        self.profiles = [self._profile(i) for i in range(WORKERS)]
        self._handle([Connect(worker=profile) for profile in self.profiles])
        self.spent = 0.0
        self.top_up()
        self.filling = self.spent

    def _profile(self, i: int) -> WorkerProfile:
        name = f"w{i:04d}"
        return WorkerProfile(
            name=name, title=name, incarnation="1", **self.shape.worker(i, self.rng)
        )

    def task(self, **more: Any) -> Task:
        number = next(self.ids)
        return Task(id=str(number), **{**self.shape.task(number, self.rng), **more})

    def submit(self, tasks: list[Task]) -> None:
        for first in range(0, len(tasks), CHUNK):
            part = tuple(tasks[first : first + CHUNK])
            submission = Submission(submission_id="s", run="r", run_title="r", tasks=part)
            known = self._known(submission)
            self._handle([e.SubmissionReceived(submission, known, None)])

    def _known(self, submission: Submission) -> dict[tuple[str, str], e.StoredStatus]:
        """Return the statuses of dependencies in earlier submissions: succeeded."""
        before = {d for t in submission.tasks for d in t.depends_on} - {
            t.id for t in submission.tasks
        }
        return {("r", id): e.StoredStatus(TaskStatus.SUCCEEDED, 0) for id in before}

    def top_up(self) -> None:
        """Submit tasks until the wanted number is open again."""
        live = len(self.state.tasks.live) - self.shape.stuck
        self.submit([self.task() for _ in range(self.shape.open - live)])

    def finish(self) -> int:
        """Handle the results of one batch of assigned tasks, and return its size."""
        size = min(self.shape.batch, len(self.assigned))
        events: list[e.Event] = [self._result_of(self.assigned.popleft()) for _ in range(size)]
        self.now += size / PACE
        if self.now - self.last_heartbeat >= 5.0:
            self.last_heartbeat = self.now
            events += [Heartbeat(worker=profile) for profile in self.profiles]
        self._handle(events)
        return size

    def _handle(self, events: list[e.Event]) -> None:
        start = process_time()
        out = self.state.handle(events, self.now)
        self.spent += process_time() - start
        self.assigned.extend(command for command in out if isinstance(command, c.Assign))
        refused = [x.reason for x in out if isinstance(x, c.AnswerSubmission) and x.reason]
        if refused:
            raise RuntimeError(refused[0])

    def _result_of(self, assignment: c.Assign) -> TaskResults:
        fails = self.shape.failing and self.rng.random() < self.shape.failing
        outcome = Outcome.FAILED if fails else Outcome.SUCCEEDED
        result = TaskResult(
            run=assignment.key[0],
            id=assignment.key[1],
            attempt=assignment.attempt,
            outcome=outcome,
            started_at=None if self.shape.seconds is None else 0.0,
            finished_at=self.shape.seconds,
        )
        return TaskResults(worker=assignment.worker.name, incarnation="1", results=(result,))


def bytes_per_waiting_task() -> int:
    """Return the memory of the state per waiting task, with all indexes but no payload."""
    shape = Shape("memory", open=0)
    harness = CoreHarness(shape)
    gc.collect()
    tracemalloc.start()
    harness.submit([harness.task() for _ in range(WORKERS)])  # one for each worker
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(WAITING // CHUNK):
        harness.submit([harness.task() for _ in range(CHUNK)])
    harness.state.handle([], 1.0)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) // WAITING


def measure(shape: Shape) -> Measured:
    gc.collect()
    harness = CoreHarness(shape)
    filling, done, spent = harness.spent, 0, 0.0
    while done < shape.decisions:
        harness.spent = 0.0
        done += harness.finish()
        if shape.flows:
            harness.top_up()
        spent += harness.spent
        harness.top_up()
    return Measured(
        shape.name,
        shape.waiting,
        shape.batch,
        int(done / spent),
        round(spent / done * 1e6, 1),
        int(shape.open / filling),
    )


# --- shapes ----------------------------------------------------------------------------------


def easy_tasks(i: int, rng: random.Random) -> dict[str, Any]:
    return {**mixed_tasks(i, rng), "difficulty": rng.randint(1, 5)}


def equal_priorities(i: int, rng: random.Random) -> dict[str, Any]:
    return {**mixed_tasks(i, rng), "priority": 1}


def random_priorities(i: int, rng: random.Random) -> dict[str, Any]:
    return {**mixed_tasks(i, rng), "priority": rng.randint(1, 100)}


def distinct_types(i: int, rng: random.Random) -> dict[str, Any]:
    return {**mixed_tasks(i, rng), "type": f"t{i % 1000}", "difficulty": 1 + i % 1000 % 10}


def distinct_skills(i: int, rng: random.Random) -> dict[str, Any]:
    return {
        **mixed_workers(i, rng),
        "specialties": [f"s{i}", *rng.sample(("ocr", "gpu", "lab"), 2)],
    }


def limited(i: int, rng: random.Random) -> dict[str, Any]:
    return {**mixed_tasks(i, rng), "timeout": 60, "deadline": 86_400, "max_attempts": 5}


def reserved(i: int, rng: random.Random) -> dict[str, Any]:
    return {**mixed_workers(i, rng), "reserve": 5 if i % 3 == 0 else 0}


def chained(i: int, rng: random.Random) -> dict[str, Any]:
    """Make chains of ten tasks; each task depends on the one before."""
    return {**mixed_tasks(i, rng), "depends_on": (str(i - 1),) if i % 10 else ()}


BATCHES = [Shape("main", batch=size) for size in (1, 10, 100, 1_000)]
SIZES = [
    Shape("size", task=equal_priorities, open=n + WORKERS, batch=100)
    for n in (1_000, 10_000, 100_000)
]
SHAPES = [
    Shape("arrival policy", policy=Arrival),
    Shape("equal priorities", task=equal_priorities),
    Shape("random priorities", task=random_priorities),
    Shape("chains of ten", task=chained),
    Shape("timeouts and deadlines", task=limited),
    Shape("a third are reserved", worker=reserved),
    Shape("one in ten fails", task=limited, failing=0.1),
    Shape("1,000 task types", task=distinct_types),
    Shape("1,000 skill sets", worker=distinct_skills),
    Shape("1,000 types, 1,000 skill sets", task=distinct_types, worker=distinct_skills),
    Shape("arrival, 1,000 skill sets", worker=distinct_skills, policy=Arrival),
    Shape("short tasks, ten ahead", open=WAITING + 11 * WORKERS, seconds=0.01),
    Shape("short tasks, one at a time", open=WAITING + 11 * WORKERS, seconds=0.01, batch=1),
    Shape("flow, half are free", open=500, batch=100),
    Shape("flow past hard tasks", task=easy_tasks, open=500, stuck=WAITING, batch=100),
    Shape("flow, 1,000 skill sets", worker=distinct_skills, open=500, batch=100),
    Shape("flow, 1,000 types and skill sets", task=distinct_types, worker=distinct_skills, open=500, batch=100),
]  # fmt: skip


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


HEAD = f"{'shape':34} {'waiting':>8} {'batch':>6} {'decisions/s':>12} {'µs each':>8} {'submitted/s':>12}"


def row(r: Measured) -> str:
    return f"{r.shape:34} {r.waiting:8,} {r.batch:6,} {r.per_second:12,} {r.microseconds:8} {r.submitted_per_second:12,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    options = parser.parse_args()
    shapes = [shape for shape in (*BATCHES, *SIZES, *SHAPES) if options.only in shape.name]
    if not shapes:
        names = ", ".join(dict.fromkeys(shape.name for shape in (*BATCHES, *SIZES, *SHAPES)))
        parser.error(f"no shape has {options.only!r} in its name; there are: {names}")
    print_line = (lambda _: None) if options.json else print
    print_line(f"{WORKERS:,} workers; {machine()}\n\n{HEAD}")
    results = []
    for shape in shapes:
        results.append(measure(shape))
        print_line(row(results[-1]))
    sizes = [r.microseconds for r in results if r.shape == "size"]
    growth = round(sizes[-1] / sizes[0], 2) if sizes else None
    size = bytes_per_waiting_task()
    print_line(f"\n{size} bytes for each task that waits")
    if growth:
        print_line(f"a hundred times as many waiting: one decision costs {growth} times as much")
    if options.json:
        report = {
            "machine": machine(),
            "growth": growth,
            "bytes_per_waiting_task": size,
            "results": [asdict(r) for r in results],
        }
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
