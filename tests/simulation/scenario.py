"""Derive a scenario from a seed: workers, tasks, and faults."""

from dataclasses import dataclass
from itertools import count
from random import Random

from skillq.messages import Task, Unroutable
from tests.simulation.connections import NetworkFaults
from tests.simulation.work_log import Ending, TaskScript

SPECIALTIES = ("gpu", "lab", "law")
TYPES = ("task", "gpu", "text")
CALM_SECONDS = 45.0  # after the last fault, until its effects are over
_FLOOD = 150  # short tasks at once, so that some are prefetched


@dataclass(frozen=True, slots=True)
class Batch:
    """Tasks that a client submits at a time by a method."""

    at: float
    run: str
    tasks: tuple[Task, ...]
    method: str  # complete, submit, forget (submit once without waiting), http
    resubmit_after: float | None  # seconds until the same tasks are submitted again


@dataclass(slots=True)
class Scenario:
    seed: int
    workers: int
    managers: int
    chaos_seconds: float
    batches: list[Batch]
    scripts: dict[tuple[str, str], TaskScript]
    faults: NetworkFaults
    fault_rates: dict[str, float]  # faults per second by kind
    commit_failure_rate: float = 0.0
    disk_latency: float = 0.002
    disk_crash_rate: float = 0.0
    validates_state: bool = False
    operator_rate: float = 0.0  # actions of an operator per second
    head: int = 0  # tasks with one need that a manager keeps in memory; 0: all

    @property
    def tasks(self) -> int:
        return sum(len(batch.tasks) for batch in self.batches)


def scenario(seed: int) -> Scenario:
    chance = Random(f"scenario {seed}")
    size = chance.random()
    if size < 0.9:
        workers, tasks = chance.randint(2, 7), chance.randint(5, 60)
    elif size < 0.99:
        workers, tasks = chance.randint(8, 25), chance.randint(60, 200)
    else:
        workers, tasks = chance.randint(100, 200), chance.randint(1000, 2000)
    large = workers >= 100
    seconds = 60.0 if large else chance.uniform(30.0, 150.0)
    scripts: dict[tuple[str, str], TaskScript] = {}
    batches = _batches(chance, tasks, seconds, scripts)
    if not large:
        batches += _floods(Random(f"floods {seed}"), seconds, scripts)
    result = Scenario(
        seed=seed,
        workers=workers,
        managers=chance.choice((1, 1, 2)),
        chaos_seconds=seconds,
        batches=batches,
        scripts=scripts,
        faults=_faults(chance),
        fault_rates=_rates(chance, workers),
        commit_failure_rate=chance.choice((0.0, 0.0, 0.01)),
        disk_latency=chance.choice((0.001, 0.01, 0.1)),
        disk_crash_rate=chance.choice((0.0, 0.005, 0.03, 0.08)),
        validates_state=tasks <= 100,
        operator_rate=chance.choice((0.0, 0.05, 0.2)),
    )
    result.head = _head(Random(f"head {seed}"), result.disk_latency)
    return result


def _head(chance: Random, latency: float) -> int:
    """Return a small number, so that the backlog is used. A slow disk gets a larger number."""
    return chance.choice((0, 1, 2, 5)) * {0.001: 1, 0.01: 3, 0.1: 8}[latency]


def _faults(chance: Random) -> NetworkFaults:
    def some(most: float) -> float:
        return chance.random() * most if chance.random() < 0.5 else 0.0

    return NetworkFaults(
        latency=chance.choice((0.001, 0.01, 0.1)),
        lost=some(0.05),
        unconfirmed=some(0.05),
        forgotten=some(0.05) if chance.random() < 0.5 else 0.0,
        doubled=some(0.3),
        late=some(0.05),
        late_by=chance.choice((2.0, 15.0)),
        crashes=chance.choice((0.0, 0.002, 0.02)),
    )


def _rates(chance: Random, workers: int) -> dict[str, float]:
    """Use each kind of fault in half of all seeds: too many kinds at once would hide each other."""
    each = min(workers, 20)
    most = {
        "kill worker": 0.02 * each,
        "pause worker": 0.01 * each,
        "drain worker": 0.01 * each,
        "cut worker": 0.01 * each,
        "delete queue": 0.005 * each,
        "deafen worker": 0.005 * each,
        "kill manager": 0.1,
        "stop manager": 0.02,
        "pause manager": 0.03,
        "cut manager": 0.04,
        "deafen manager": 0.03,
        "kill client": 0.03,
        "broker away": 0.02,
        "broker frozen": 0.02,
        "memory alarm": 0.02,
    }
    return {kind: chance.random() * rate for kind, rate in most.items() if chance.random() < 0.5}


def _batches(
    chance: Random, tasks: int, seconds: float, scripts: dict[tuple[str, str], TaskScript]
) -> list[Batch]:
    batches: list[Batch] = []
    runs = [f"run {n}" for n in range(chance.randint(1, 4))]
    # Ids of tasks that are submitted until the manager has them.
    certain_ids: dict[str, list[str]] = {run: [] for run in runs}
    only_simple = chance.random() < 0.3
    ids = count()
    while tasks > 0:
        run = chance.choice(runs)
        size = min(tasks, chance.choice((1, 1, 3, 10, 30)) if tasks < 300 else 100)
        tasks -= size
        method = chance.choice(("complete", "submit", "forget", "forget", "forget", "http"))
        earlier_ids = [] if method == "forget" else certain_ids[run]
        new_tasks = tuple(
            _task(chance, f"t{next(ids)}", run, earlier_ids, scripts, only_simple)
            for _ in range(size)
        )
        at = chance.choice((0.0, chance.random() * 0.8 * seconds))
        again = chance.random() * seconds if chance.random() < 0.2 else None
        batches.append(Batch(at, run, new_tasks, method, again))
    return batches


def _floods(
    chance: Random, seconds: float, scripts: dict[tuple[str, str], TaskScript]
) -> list[Batch]:
    """Return many short tasks with a few long ones, once during the faults and once after them."""
    if chance.random() < 0.4:
        return []
    times = {"flood": chance.random() * 0.8 * seconds, "calm": seconds + CALM_SECONDS}
    for run in times:
        for n in range(_FLOOD):
            slow = chance.random() < 0.04
            scripts[run, f"f{n}"] = TaskScript(4.0 if slow else chance.choice((0.0, 0.002, 0.01)))
    tasks = tuple(Task(id=f"f{n}", difficulty=chance.randint(1, 3)) for n in range(_FLOOD))
    return [Batch(at, run, tasks, "complete", None) for run, at in times.items()]


def _task(  # noqa: PLR0917
    chance: Random,
    id: str,
    run: str,
    earlier_ids: list[str],
    scripts: dict[tuple[str, str], TaskScript],
    only_simple: bool,
) -> Task:
    key = run.replace(" ", "-"), id
    fields: dict[str, object] = {"id": id, "difficulty": chance.randint(1, 8)}
    if earlier_ids and chance.random() < 0.3:
        few = chance.sample(earlier_ids[-10:], min(len(earlier_ids[-10:]), chance.randint(1, 3)))
        fields["depends_on"] = tuple(few)
        fields["on_failed_dependency"] = chance.choice(("fail", "run"))
    earlier_ids.append(id)
    seconds = chance.choice((0.0, 0.1, 1.0, 3.0, 10.0)) * chance.random()
    if only_simple or chance.random() < 0.5:
        scripts[key] = TaskScript(seconds)
        return Task.model_validate(fields)
    fields |= _terms(chance)
    ends = _ends(chance)
    if Ending.HANGS in ends:
        fields["timeout"] = chance.uniform(1.0, 10.0)
    scripts[key] = TaskScript(seconds, ends)
    return Task.model_validate(fields)


def _terms(chance: Random) -> dict[str, object]:
    fields: dict[str, object] = {
        "type": chance.choice(TYPES),
        "priority": chance.randint(1, 5),
        "max_attempts": chance.randint(1, 4),
        "escalate_by": chance.choice((0, 0, 1, 3)),
    }
    if chance.random() < 0.3:
        fields["requires"] = (chance.choice(SPECIALTIES),)
    if chance.random() < 0.15:
        fields["timeout"] = chance.uniform(1.0, 20.0)
    if chance.random() < 0.15:
        fields["deadline"] = chance.uniform(5.0, 120.0)
    if chance.random() < 0.3:
        fields["unroutable"] = chance.choice(list(Unroutable))
        fields["unroutable_after"] = chance.uniform(1.0, 60.0)
    if chance.random() < 0.1:
        fields["retry_on"] = ("ValueError",)
    if chance.random() < 0.1:
        fields["no_retry_on"] = ("TaskFailed",)
    return fields


def _ends(chance: Random) -> tuple[Ending, ...]:
    kind = chance.random()
    if kind < 0.4:
        return (Ending.SUCCEEDS,)
    bad = chance.choice(
        (Ending.FAILS, Ending.FAILS, Ending.RAISES, Ending.RAISES, Ending.KILLS, Ending.HANGS)
    )
    if kind < 0.55:
        return (bad,)
    return (*(bad for _ in range(chance.randint(1, 3))), Ending.SUCCEEDS)
