"""A worker trusts its own lease no longer than the manager does; settings that cannot hold are refused."""

import asyncio

import pytest

from skillq import timings
from skillq.errors import UsageError
from skillq.messages import Lease
from skillq.runtime.settings import load_settings
from skillq_worker.__main__ import make_profile
from skillq_worker.settings import WorkerSettings
from skillq_worker.worker import Worker
from tests.support.virtual_time import loop_clock
from tests.unit.wire import Wire
from tests.unit.worker.bench import BRIEF, Bench
from tests.unit.worker.boss import Boss, order, until, who


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "LEASE_CHECK_SECONDS", 0.01)


@pytest.mark.parametrize("aborts", [False, True])
async def test_without_confirmed_heartbeats_it_begins_nothing_and_gives_up_what_runs_if_told_to(
    aborts: bool,
) -> None:
    bench = Bench()
    async with Boss(who(lease=BRIEF, slots=2)) as boss:
        await boss.give_queue()
        async with Wire(boss.broker) as wire:
            one = Worker(
                wire,
                boss.worker,
                bench,
                clock=loop_clock(),
                grace=0,
                cancel_on_lost_lease=aborts,
            )
            running = asyncio.create_task(one.run())
            await until(lambda: one.is_ready)
            await boss.assign(order("a"))
            await until(lambda: bench.busy == 1)
            wire.fails = lambda key: key.startswith("heartbeat")
            await until(lambda: not one._lease.may_start.is_set())
            await boss.assign(order("b"))
            if aborts:
                await until(lambda: not one._held_attempts and not bench.busy)
            else:
                await until(lambda: len(one._held_attempts) == 2)
                assert bench.busy == 1, "b is not begun"
                wire.fails = lambda _: False
                await until(lambda: bench.busy == 2)
            one.stop(now=True)
            await running


def settings(**given: float) -> WorkerSettings:
    return load_settings(WorkerSettings, dict(given))


def test_the_lease_is_set_once_at_the_worker_whose_profile_tells_the_manager() -> None:
    lease = make_profile(settings(heartbeat=1, suspect_after=4, dead_after=16)).lease
    assert lease == Lease(heartbeat=1, suspect_after=4, dead_after=16)
    assert lease.suspect_after < lease.fence_after == 8 < lease.dead_after
    assert make_profile(settings()).lease == Lease(heartbeat=5, suspect_after=15, dead_after=30)
    assert Lease().fence_after == 20


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"heartbeat": 6},
            "--suspect-after (SKILLQ_SUSPECT_AFTER): 15 s are fewer than 3 heartbeats of 6 s; "
            "raise it, or lower --heartbeat",
        ),
        (
            {"suspect_after": 30},
            "--dead-after (SKILLQ_DEAD_AFTER): 30 s should be more than --suspect-after, 30 s",
        ),
        ({"dead_after": 10}, "--dead-after (SKILLQ_DEAD_AFTER): should be at least 15, not 10"),
        ({"heartbeat": 0}, "--heartbeat (SKILLQ_HEARTBEAT): should be at least 0.5, not 0"),
    ],
)
def test_leases_that_cannot_hold_are_refused_in_one_line(
    given: dict[str, float], line: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settings(**given)
    assert str(caught.value) == line
