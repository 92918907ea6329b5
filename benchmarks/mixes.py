"""Draw tasks of known length by a seed; each policy gets the same tasks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from random import Random

SHORTEST, SHORT = 0.001, 0.005  # seconds


@dataclass(frozen=True, slots=True)
class Sleep:
    type: str
    seconds: float


Draw = Callable[[Random, int], list[Sleep]]


@dataclass(frozen=True)
class Mix:
    name: str
    title: str
    draw: Draw
    tasks: int


def mixes(longest: float, share: float) -> tuple[Mix, ...]:
    """Return the mixes, with `share` of the usual number of tasks."""

    def of_one_type(random: Random, count: int) -> list[Sleep]:
        return [_draw_sleep(random, "any", SHORTEST, longest) for _ in range(count)]

    def of_two_types(random: Random, count: int) -> list[Sleep]:
        sleeps = [
            _draw_sleep(random, "short", SHORTEST, SHORT)
            if number % 10
            else _draw_sleep(random, "long", longest / 20, longest)
            for number in range(count)
        ]
        random.shuffle(sleeps)
        return sleeps

    def of_short_tasks(random: Random, count: int) -> list[Sleep]:
        return [_draw_sleep(random, "short", SHORTEST, SHORT) for _ in range(count)]

    return (
        Mix("one-type", f"one type, 1 ms to {longest:g} s", of_one_type, round(400 * share)),
        Mix(
            "two-types",
            f"two types: nine of ten 1 to 5 ms, others {longest / 20:g} to {longest:g} s",
            of_two_types,
            round(1000 * share),
        ),
        Mix("all-short", "one type, 1 to 5 ms", of_short_tasks, round(3000 * share)),
    )


def _draw_sleep(random: Random, type: str, least: float, most: float) -> Sleep:
    """Draw a length so that each order of magnitude is equally likely."""
    return Sleep(type, round(math.exp(random.uniform(math.log(least), math.log(most))), 6))


def in_one_queue(sleeps: Sequence[Sleep], slots: int) -> float:
    """Return the makespan if each free slot takes the next task at once, without overhead.

    A policy that does not know the lengths of tasks can be faster only by luck.
    """
    free_at = [0.0] * slots
    heapify(free_at)
    for one in sleeps:
        heapreplace(free_at, free_at[0] + one.seconds)
    return max(free_at)
