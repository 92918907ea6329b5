"""Compare the makespans of dispatch rules on random fleets and task sets.

    python -m benchmarks.schedules [--instances N] [--json FILE] [--plot FILE]

Fleets and task sets are random; all tasks are ready from the start. The manager's own index applies each rule on a
virtual clock. The makespan is compared with a lower bound: the optimum for tasks that may be split and moved, or
the longest task. No real time is measured, so nothing depends on the machine.

No rule knows the length of a task. In half of the instances the length is the difficulty, as in simulated work. In
the others the length is random, and the mean over several draws is compared: it is luck which rule starts the
longest task early.
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
DRAWN = 40_000  # tasks over all draws of one instance: small instances depend more on luck

Match = tuple[TaskEntry, WorkerEntry]


class Fifo(BestFit):
    """Choose the oldest task of those a worker can do, and the worker free for longest."""

    def task_rank(self, task: TaskEntry) -> Order:
        return (task.seq,)

    def fit(self, skills: Skills, need: Need) -> Order:
        return ()

    def worker_rank(self, worker: WorkerEntry) -> Order:
        return (worker.last_seen, worker.joined)


class InOrder(Fifo):
    """Arrival pairing: no task starts before the tasks that were submitted earlier."""


class RandomEligible(Fifo):
    """Choose any task that the worker can do, and any worker that can do it."""

    def __init__(self) -> None:
        self._rng = random.Random(7)

    def task_rank(self, task: TaskEntry) -> Order:
        return (self._rng.random(),)

    def worker_rank(self, worker: WorkerEntry) -> Order:
        return (self._rng.random(),)


class HardestFirst(Fifo):
    """Choose the most difficult task that the worker can do, and the most skilled worker."""

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
    by_difficulty: bool  # whether the length of a task is its difficulty
    workers: Sequence[WorkerProfile]
    tasks: Sequence[Task]
    draws: Sequence[Sequence[float]]  # the seconds that each task takes


@dataclass(frozen=True)
class Scored:
    """Makespans as multiples of the lower bound, as means over the draws."""

    seed: int
    specialties: bool
    by_difficulty: bool
    workers: int
    tasks: int
    ratios: dict[str, float]

    @property
    def ratio_to_best_other(self) -> float:
        """The makespan of our rule as a multiple of the best other rule."""
        return self.ratios[OURS] / min(r for name, r in self.ratios.items() if name != OURS)


def make_instance(seed: int) -> Instance:
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
        for i in range(log_uniform(rng, 5, 100))
    ]
    tasks = [
        Task(id=str(i), type=rng.choice(TYPES), difficulty=level(rng, task_skew))
        for i in range(log_uniform(rng, 100, 10_000))
    ]
    if by_difficulty:
        draws = [[float(task.difficulty) for task in tasks]]
    else:
        draw_count = min(60, max(5, DRAWN // len(tasks)))
        draws = [[rng.uniform(1, 10) for _ in tasks] for _ in range(draw_count)]
    return Instance(specialties, by_difficulty, workers, tasks, draws)


def level(rng: random.Random, skew: float) -> int:
    """Return a level from 1 to 10; a `skew` over 1 favours small levels."""
    return 1 + int(10 * rng.random() ** skew)


def log_uniform(rng: random.Random, least: int, most: int) -> int:
    """Return a number between two limits; each order of magnitude is equally likely."""
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))


def makespan(policy: Policy, instance: Instance, seconds: Sequence[float]) -> float:
    """Return the seconds until the last task has ended."""
    board = Board(policy, Lookahead(LookaheadPolicy(max_prefetched=0)))
    for i, profile in enumerate(instance.workers):
        board.add_worker(WorkerEntry(profile, i, 0.0))
    waiting = deque(entries(instance.tasks))
    board_size = 1 if isinstance(policy, InOrder) else len(waiting)
    running: list[tuple[float, int, TaskEntry, WorkerEntry]] = []
    now = 0.0
    while True:
        for task, worker in matches(board, waiting, board_size):
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


def matches(board: Board, waiting: deque[TaskEntry], board_size: int) -> Iterator[Match]:
    """Yield all possible matches, with `board_size` waiting tasks on the board at a time."""
    while True:
        while waiting and board.ready_count < board_size:
            board.add_task(waiting.popleft())
        match = board.next_match()
        if match is None:
            return
        yield match


def lower_bound(instance: Instance, seconds: Sequence[float]) -> float:
    """Return the optimum for divisible tasks (a linear program), or the longest task."""
    work: defaultdict[Need, float] = defaultdict(float)
    for task, length in zip(instance.tasks, seconds, strict=True):
        work[Need.from_task(task)] += length
    skill_counts = Counter(Skills.from_profile(profile) for profile in instance.workers)
    pairs = np.array(
        [
            (n, k)
            for n, need in enumerate(work)
            for k, skills in enumerate(skill_counts)
            if is_able(skills, need)
        ]
    )
    size, each = len(pairs), np.arange(len(pairs))
    done = coo_array((np.ones(size), (pairs[:, 0], each)), (len(work), size + 1))
    spare = coo_array(
        (
            np.r_[np.ones(size), -np.array([*skill_counts.values()], float)],
            (
                np.r_[pairs[:, 1], np.arange(len(skill_counts))],
                np.r_[each, np.full(len(skill_counts), size)],
            ),
        ),
        (len(skill_counts), size + 1),
    )
    found = linprog(
        np.r_[np.zeros(size), 1.0],
        A_ub=spare.tocsr(),
        b_ub=np.zeros(len(skill_counts)),
        A_eq=done.tocsr(),
        b_eq=np.array([*work.values()]),
        method="highs",
    )
    return max(float(found.fun), *seconds)


def score(seed: int) -> Scored:
    instance = make_instance(seed)
    bounds = [lower_bound(instance, draw) for draw in instance.draws]
    ratios = {
        name: statistics.fmean(
            makespan(rule(), instance, draw) / bound
            for draw, bound in zip(instance.draws, bounds, strict=True)
        )
        for name, rule in RULES.items()
    }
    return Scored(
        seed,
        instance.specialties,
        instance.by_difficulty,
        len(instance.workers),
        len(instance.tasks),
        ratios,
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
            ninth_decile = ratios[min(len(ratios) - 1, int(0.9 * len(ratios)))]
            lines.append(
                f"| {name} | {statistics.median(ratios):.3f} | {statistics.fmean(ratios):.3f} | {ninth_decile:.3f} | {ratios[-1]:.3f} |"
            )
        ratio_to_best_other = sorted((s.ratio_to_best_other, s.seed) for s in group)
        lines.append(
            f"ours against the best of the others: median {statistics.median(b for b, _ in ratio_to_best_other):.3f}, "
            f"worst {ratio_to_best_other[-1][0]:.3f} (seed {ratio_to_best_other[-1][1]})\n"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=int, default=120)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    scored = [score(seed) for seed in range(options.instances)]
    print(table(scored))
    if options.json:
        options.json.write_text(json.dumps([asdict(s) for s in scored], indent=1) + "\n")
    if options.plot:
        series = {name: [s.ratios[name] for s in scored] for name in RULES}
        draw_ranked(series, OURS, ("% of instances", "makespan / lower bound"), options.plot)


if __name__ == "__main__":
    main()
