"""Calculations of the benchmarks."""

from random import Random

from benchmarks.holding import Hold, stranded
from benchmarks.mixes import Sleep, in_one_queue, mixes


def test_idle_slots_are_stranded_while_other_workers_hold_more_tasks_than_slots() -> None:
    holds = [Hold("ada", 0.0, end) for end in (2.0, 3.0, 4.0, 5.0)]  # two wait until 2, one until 3
    assert stranded(holds, ("ada", "bob"), slots=2) == 2 * 2.0 + 1 * 1.0
    busy = [Hold("bob", 0.0, 1.0), Hold("bob", 0.0, 1.0)]
    assert stranded(holds + busy, ("ada", "bob"), slots=2) == 2 * 1.0 + 1 * 1.0


def test_no_slot_is_stranded_if_no_task_waits_or_no_slot_is_idle() -> None:
    assert stranded([Hold("ada", 0.0, 9.0)], ("ada", "bob"), slots=1) == 0.0
    assert stranded([Hold("ada", 0.0, 9.0)] * 3, ("ada",), slots=1) == 0.0


def test_an_ideal_queue_gives_each_slot_the_next_task_when_it_is_free() -> None:
    sleeps = [Sleep("any", seconds) for seconds in (3.0, 1.0, 1.0, 5.0)]
    assert in_one_queue(sleeps, slots=2) == 7.0


def test_a_mix_depends_only_on_its_seed_and_stays_within_its_bounds() -> None:
    for mix in mixes(longest=2.0, share=0.1):
        drawn = mix.draw(Random(1), mix.tasks)
        assert drawn == mix.draw(Random(1), mix.tasks) != mix.draw(Random(2), mix.tasks)
        assert len(drawn) == mix.tasks
        assert all(0.001 <= one.seconds <= 2.0 for one in drawn)
