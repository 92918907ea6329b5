"""How long schedules take: `python -m benchmarks.schedules [--instances N] [--json FILE] [--plot FILE]`.

Random fleets and task sets, all tasks there from the start, each rule applied by the manager's own index with a
virtual clock. The makespan is compared with a lower bound: what could be reached if tasks could be cut and
moved at will, or the longest task. Nothing is timed here, and nothing depends on the machine.

No rule knows how long a task takes. In half of the instances that is its difficulty, as in the simulation of work; in
the others it has nothing to do with it, and what is compared is the mean of several draws: which rule happens
to begin the longest task early is luck.
"""

import argparse
import json
import math
import random
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from benchmarks.plots import draw_ranked
from skillq.messages import Task, TaskStatus, WorkerProfile
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.dispatch.lookahead import Lookahead, LookaheadPolicy
from skillq_manager.core.model import Need, Skills, TaskEntry, Terms, WorkerEntry
from skillq_manager.core.rules.matching import BestFit, Order, Policy, is_able

TYPES = ("mail", "ocr", "gpu", "lab")
SKEWS = (0.5, 1.0, 2.0)
DRAWN = 40_000  # tasks, over the draws of one instance: small ones depend more on luck

Match = tuple[TaskEntry, WorkerEntry]


class Fifo(BestFit):
    """The oldest task that the worker can do; of the workers, the one that has been free for longest."""

    def task_rank(self, task: TaskEntry) -> Order:
        return (task.seq,)

    def fit(self, skills: Skills, need: Need) -> Order:
        return ()

    def worker_rank(self, worker: WorkerEntry) -> Order:
        return (worker.last_seen, worker.joined)


class InOrder(Fifo):
    """Arrival pairing: no task begins before those submitted earlier."""


class RandomEligible(Fifo):
    """Any task that the worker can do, any worker that can do it."""

    def __init__(self) -> None:
        self._rng = random.Random(7)

    def task_rank(self, task: TaskEntry) -> Order:
        return (self._rng.random(),)

    def worker_rank(self, worker: WorkerEntry) -> Order:
        return (self._rng.random(),)


class HardestFirst(Fifo):
    """The hardest task that the worker can do; of the workers, the most skilled."""

    def task_rank(self, task: TaskEntry) -> Order:
        return (-task.need.difficulty, task.seq)

    def fit(self, skills: Skills, need: Need) -> Order:
        return (-skills.skill,)


RULES: dict[str, Callable[[], Policy]] = {
    "best fit, hardest first (skillq)": BestFit,
    "hardest first": HardestFirst,
    "first in, first out": Fifo,
    "random eligible": RandomEligible,
    "arrival pairing": InOrder,
}
OURS = next(iter(RULES))


@dataclass(frozen=True)
class Instance:
    specialties: bool
    by_difficulty: bool  # how long a task takes
    workers: Sequence[WorkerProfile]
    tasks: Sequence[Task]
    draws: Sequence[Sequence[float]]  # the seconds that each task takes


@dataclass(frozen=True)
class Scored:
    """Makespans as multiples of the lower bound, means over the draws."""

    seed: int
    specialties: bool
    by_difficulty: bool
    workers: int
    tasks: int
    ratios: dict[str, float]

    @property
    def behind(self) -> float:
        """Ours as a multiple of the best of the others."""
        return self.ratios[OURS] / min(r for name, r in self.ratios.items() if name != OURS)


def instance(seed: int) -> Instance:
    rng = random.Random(seed)
    skill_skew, task_skew = rng.choice(SKEWS), rng.choice(SKEWS)
    specialties = rng.random() < 0.5
    by_difficulty = rng.random() < 0.5
    workers = [
        WorkerProfile(
            name=f"w{i}",
            title=f"w{i}",
            incarnation="1",
            skill=10 if i == 0 else level(rng, skill_skew),
            specialties=tuple(rng.sample(TYPES, rng.randint(0, 2))) if specialties else (),
        )
        for i in range(spread(rng, 5, 100))
    ]
    tasks = [
        Task(id=str(i), type=rng.choice(TYPES), difficulty=level(rng, task_skew))
        for i in range(spread(rng, 100, 10_000))
    ]
    if by_difficulty:
        draws = [[float(task.difficulty) for task in tasks]]
    else:
        often = min(60, max(5, DRAWN // len(tasks)))
        draws = [[rng.uniform(1, 10) for _ in tasks] for _ in range(often)]
    return Instance(specialties, by_difficulty, workers, tasks, draws)


def level(rng: random.Random, skew: float) -> int:
    """1 to 10; a `skew` over 1 makes small numbers likely, under 1 large ones."""
    return 1 + int(10 * rng.random() ** skew)


def spread(rng: random.Random, least: int, most: int) -> int:
    """Each order of magnitude is as likely as the others."""
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))


def makespan(policy: Policy, given: Instance, seconds: Sequence[float]) -> float:
    """Seconds until the last task has ended."""
    board = Board(policy, Lookahead(LookaheadPolicy(max_prefetched=0)))
    for i, profile in enumerate(given.workers):
        board.add_worker(WorkerEntry(profile, i, 0.0))
    waiting = deque(entries(given.tasks))
    offered = 1 if isinstance(policy, InOrder) else len(waiting)
    running: list[tuple[float, int, TaskEntry, WorkerEntry]] = []
    now = 0.0
    while True:
        for task, worker in matches(board, waiting, offered):
            worker.attempts[task.key] = task
            board.worker_changed(worker)
            heappush(running, (now + seconds[task.seq], task.seq, task, worker))
        if not running:
            return now
        now, _, task, worker = heappop(running)
        del worker.attempts[task.key]
        worker.last_seen = now
        board.worker_changed(worker)


def entries(tasks: Sequence[Task]) -> Iterator[TaskEntry]:
    terms = Terms.from_task(tasks[0])
    for i, task in enumerate(tasks):
        yield TaskEntry(("", task.id), i, Need.from_task(task), 1, terms, 0, 0.0, TaskStatus.READY)


def matches(board: Board, waiting: deque[TaskEntry], offered: int) -> Iterator[Match]:
    """All that can begin now, where so many of the tasks that wait are on the board at a time."""
    while True:
        while waiting and board.ready_count < offered:
            board.add_task(waiting.popleft())
        match = board.next_match()
        if match is None:
            return
        yield match


def lower_bound(given: Instance, seconds: Sequence[float]) -> float:
    """The optimum with tasks cut and moved at will (a linear program over kinds of tasks and workers), or the longest."""
    work: defaultdict[Need, float] = defaultdict(float)
    for task, length in zip(given.tasks, seconds, strict=True):
        work[Need.from_task(task)] += length
    kinds = Counter(Skills.from_profile(profile) for profile in given.workers)
    pairs = np.array(
        [
            (n, k)
            for n, need in enumerate(work)
            for k, kind in enumerate(kinds)
            if is_able(kind, need)
        ]
    )
    size, each = len(pairs), np.arange(len(pairs))
    done = coo_array((np.ones(size), (pairs[:, 0], each)), (len(work), size + 1))
    spare = coo_array(
        (
            np.r_[np.ones(size), -np.array([*kinds.values()], float)],
            (np.r_[pairs[:, 1], np.arange(len(kinds))], np.r_[each, np.full(len(kinds), size)]),
        ),
        (len(kinds), size + 1),
    )
    found = linprog(
        np.r_[np.zeros(size), 1.0],
        A_ub=spare.tocsr(),
        b_ub=np.zeros(len(kinds)),
        A_eq=done.tocsr(),
        b_eq=np.array([*work.values()]),
        method="highs",
    )
    return max(float(found.fun), *seconds)


def score(seed: int) -> Scored:
    given = instance(seed)
    bounds = [lower_bound(given, draw) for draw in given.draws]
    ratios = {
        name: statistics.fmean(
            makespan(rule(), given, draw) / bound
            for draw, bound in zip(given.draws, bounds, strict=True)
        )
        for name, rule in RULES.items()
    }
    return Scored(
        seed, given.specialties, given.by_difficulty, len(given.workers), len(given.tasks), ratios
    )


def table(scored: Sequence[Scored]) -> str:
    lines = [f"{len(scored)} instances; makespan as a multiple of the lower bound", ""]
    groups: dict[str, list[Scored]] = {
        "all": list(scored),
        "a task takes its difficulty": [s for s in scored if s.by_difficulty],
        "how long it takes is unknown": [s for s in scored if not s.by_difficulty],
        "skill alone": [s for s in scored if not s.specialties],
        "specialties": [s for s in scored if s.specialties],
    }
    for title, group in groups.items():
        lines += [
            f"{title} ({len(group)})",
            "| rule | median | mean | 9 of 10 | worst |",
            "|---|---|---|---|---|",
        ]
        for name in RULES:
            ratios = sorted(s.ratios[name] for s in group)
            tenth = ratios[min(len(ratios) - 1, int(0.9 * len(ratios)))]
            lines.append(
                f"| {name} | {statistics.median(ratios):.3f} | {statistics.fmean(ratios):.3f} | {tenth:.3f} | {ratios[-1]:.3f} |"
            )
        behind = sorted((s.behind, s.seed) for s in group)
        lines.append(
            f"ours against the best of the others: median {statistics.median(b for b, _ in behind):.3f}, "
            f"worst {behind[-1][0]:.3f} (seed {behind[-1][1]})\n"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=int, default=120)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    scored = [score(seed) for seed in range(given.instances)]
    print(table(scored))
    if given.json:
        given.json.write_text(json.dumps([asdict(s) for s in scored], indent=1) + "\n")
    if given.plot:
        series = {name: [s.ratios[name] for s in scored] for name in RULES}
        draw_ranked(series, OURS, ("% of instances", "makespan / lower bound"), given.plot)


if __name__ == "__main__":
    main()
