"""A worker relies on its lease no longer than the manager does; inconsistent settings are refused."""

import asyncio

import pytest

from skillq import timings
from skillq.errors import UsageError
from skillq.messages import Lease
from skillq.runtime.settings import load_settings
from skillq_worker.__main__ import make_profile
from skillq_worker.settings import WorkerSettings
from skillq_worker.worker import Worker
from tests.support.fake_executor import FakeExecutor
from tests.support.fake_manager import SHORT_LEASE, FakeManager, assignment, worker_profile
from tests.support.fault_injecting_transport import FaultInjectingTransport
from tests.support.virtual_time import loop_clock
from tests.support.waiting import until_async


@pytest.fixture(autouse=True)
def frequent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "LEASE_CHECK_SECONDS", 0.01)


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_worker_without_confirmed_heartbeats_starts_nothing_and_may_cancel_its_attempts(
    cancels: bool,
) -> None:
    executor = FakeExecutor(hold=True)
    async with FakeManager(worker_profile(lease=SHORT_LEASE, slots=2)) as manager:
        await manager.declare_queue()
        async with FaultInjectingTransport(manager.broker) as transport:
            worker = Worker(
                transport,
                manager.worker,
                executor,
                clock=loop_clock(),
                grace=0,
                cancel_on_lost_lease=cancels,
            )
            running = asyncio.create_task(worker.run())
            await until_async(lambda: worker.is_ready, "the worker should be ready")
            await manager.assign(assignment("a"))
            await until_async(lambda: executor.running == 1, "an attempt should run")
            transport.should_fail = lambda key: key.startswith("heartbeat")
            await until_async(
                lambda: not worker._lease.may_start.is_set(), "the lease should be uncertain"
            )
            await manager.assign(assignment("b"))
            if cancels:
                await until_async(
                    lambda: not worker._held_attempts and not executor.running,
                    "the attempt should be cancelled",
                )
            else:
                await until_async(
                    lambda: len(worker._held_attempts) == 2, "the worker should hold two attempts"
                )
                assert executor.running == 1, "b does not start"
                transport.should_fail = lambda _: False
                await until_async(lambda: executor.running == 2, "two attempts should run")
            worker.stop(now=True)
            await running


def settings(**given: float) -> WorkerSettings:
    return load_settings(WorkerSettings, dict(given))


def test_the_lease_is_a_setting_of_the_worker_and_part_of_its_profile() -> None:
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
def test_inconsistent_lease_settings_are_refused_in_one_line(
    given: dict[str, float], line: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settings(**given)
    assert str(caught.value) == line
