"""An embedded run does each task of a file once, with the right worker."""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from skillq import timings
from skillq.errors import UsageError
from skillq.forms import WorkFile
from skillq.messages import TaskEvent, TaskStatus
from skillq.summary import EndedTask
from skillq_cli.embedded import run_embedded
from skillq_manager.core.rules.leases import LeasePolicy
from skillq_manager.core.rules.matching import Arrival, BestFit, Policy
from tests.support.virtual_time import loop_clock

SUCCEEDED, FAILED, TIMED_OUT = TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.TIMED_OUT

TIERS = [
    {"name": "Junior", "skill": 3},
    {"name": "Intermediate", "skill": 6},
    {"name": "Senior", "skill": 9},
]


class RunOutcome:
    """How the tasks of a file have ended, and the events that were published meanwhile."""

    def __init__(self, ended: list[EndedTask], events: list[TaskEvent]) -> None:
        self.ended, self.events = ended, events
        self.status = {e.id: e.status for e in ended}
        self.worker = {e.id: e.worker for e in ended}
        self.reason = {e.id: e.reason for e in ended}
        self.output = {e.id: e.output for e in events if e.status is SUCCEEDED}
        self.started = [e.id for e in events if e.status is TaskStatus.RUNNING]
        self.assigned = [(e.id, e.worker) for e in events if e.status is TaskStatus.ASSIGNED]


async def run_tasks(
    tasks: list[dict[str, Any]],
    workers: list[dict[str, Any]] = TIERS,
    policy: Policy | None = None,
    time_scale: float = 0.001,
) -> RunOutcome:
    work = WorkFile.model_validate({"tasks": tasks, "workers": workers})
    events: list[TaskEvent] = []
    async with asyncio.timeout(20):
        ended = await run_embedded(
            work, policy or BestFit(), time_scale, events.append, loop_clock()
        )
    return RunOutcome(ended, events)


def task(id: object, difficulty: int = 1, **more: object) -> dict[str, Any]:
    return {"id": id, "difficulty": difficulty} | more


async def test_each_task_is_assigned_to_the_least_skilled_worker_that_can_do_it() -> None:
    run = await run_tasks([task(1, 2), task(2, 5), task(3, 8)])
    assert run.worker == {"1": "Junior", "2": "Intermediate", "3": "Senior"}
    assert set(run.status.values()) == {SUCCEEDED}


async def test_with_the_arrival_policy_the_first_task_goes_to_the_first_worker_of_any_skill() -> (
    None
):
    run = await run_tasks([task(3, 8), task(2, 5), task(1, 2)], policy=Arrival())
    assert run.worker == {"3": "Junior", "2": "Intermediate", "1": "Senior"}
    assert run.status == {"3": FAILED, "2": SUCCEEDED, "1": SUCCEEDED}
    assert run.reason["3"] == "skill 3 is below difficulty 8"


async def test_more_tasks_than_workers_are_each_done_once_by_one_worker() -> None:
    run = await run_tasks([task(n, 1 + n % 9) for n in range(60)])
    assert len(run.ended) == 60
    assert set(run.status.values()) == {SUCCEEDED}
    assert set(Counter(id for id, _ in run.assigned).values()) == {1}
    assert set(run.worker.values()) == {"Junior", "Intermediate", "Senior"}


async def test_the_summary_lists_tasks_in_the_order_of_the_file() -> None:
    ids = [str(n) for n in range(30)]
    random.Random(7).shuffle(ids)
    run = await run_tasks([task(id) for id in ids])
    assert [e.id for e in run.ended] == ids


async def test_higher_priority_goes_first_then_higher_difficulty() -> None:
    workers = [{"name": "solo", "skill": 9}]
    run = await run_tasks(
        [task("low"), task("hard", 9), task("urgent", priority=9), task("mid", 3, priority=2)],
        workers,
    )
    assert [id for id, _ in run.assigned] == ["urgent", "mid", "hard", "low"]


async def test_simulated_time_is_difficulty_over_priority() -> None:
    run = await run_tasks([task("a", 8), task("b", 8, priority=4)], time_scale=0.01)
    assert run.output["a"] == {"seconds": pytest.approx(0.08), "inputs": []}
    assert run.output["b"] == {"seconds": pytest.approx(0.02), "inputs": []}


async def test_a_specialty_makes_a_worker_two_levels_better_at_its_type() -> None:
    workers = [
        {"name": "Expert", "skill": 6, "specialties": ["ocr"]},
        {"name": "Boss", "skill": 10},
    ]
    run = await run_tasks([task("a", 8, type="ocr"), task("b", 7)], workers)
    assert run.worker == {"a": "Expert", "b": "Boss"}
    assert set(run.status.values()) == {SUCCEEDED}


async def test_a_task_goes_only_to_workers_with_its_required_specialties() -> None:
    workers = [
        {"name": "plain", "skill": 10},
        {"name": "gpu box", "skill": 5, "specialties": ["gpu"]},
    ]
    run = await run_tasks([task(n, requires=["gpu"]) for n in range(5)], workers)
    assert set(run.worker.values()) == {"gpu box"}


async def test_a_task_starts_after_its_dependencies_and_gets_their_outputs() -> None:
    run = await run_tasks(
        [
            task("end", depends_on=["left", "right"], priority=100),
            task("left", depends_on=["start"]),
            task("right", depends_on=["start"]),
            task("start", 9),
        ]
    )
    assigned = [id for id, _ in run.assigned]
    assert (assigned[0], assigned[-1]) == ("start", "end")
    output = run.output["end"]
    assert isinstance(output, dict)
    assert output["inputs"] == ["left", "right"]


async def test_a_task_whose_dependency_failed_fails_with_that_reason() -> None:
    run = await run_tasks([task("a", 8), task("b", depends_on=["a"]), task("c", depends_on=["b"])],
                   [{"name": "Junior", "skill": 3}], Arrival())  # fmt: skip
    assert set(run.status.values()) == {FAILED}
    assert run.reason["b"] == "dependency a failed"
    assert run.worker["b"] is None


async def test_a_task_that_takes_too_long_has_timed_out() -> None:
    run = await run_tasks([task("slow", 9, timeout=0.02), task("quick")], time_scale=0.1)
    assert run.status == {"slow": TIMED_OUT, "quick": SUCCEEDED}
    assert run.reason["slow"] == "took longer than 0.02 s"


async def test_a_worker_runs_as_many_tasks_at_a_time_as_it_has_slots() -> None:
    run = await run_tasks([task(n) for n in range(8)], [{"name": "wide", "skill": 9, "slots": 4}])
    first_ends = next(i for i, e in enumerate(run.events) if e.status is SUCCEEDED)
    assert sum(e.status is TaskStatus.ASSIGNED for e in run.events[:first_ends]) == 4


async def test_a_reserved_worker_takes_easy_tasks_only_after_they_have_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = [{"name": "Junior", "skill": 3}, {"name": "Senior", "skill": 9, "reserve": 6}]
    run = await run_tasks([task(n, 2) for n in range(6)] + [task("hard", 6)], workers)
    assert run.worker == {"hard": "Senior"} | {str(n): "Junior" for n in range(6)}

    def short_reserve() -> LeasePolicy:
        return LeasePolicy(reserve_for=0.05, sweep_every=0.02)

    monkeypatch.setattr("skillq_manager.core.state.LeasePolicy", short_reserve)
    alone = await run_tasks([task("easy", 2)], workers[1:])
    assert alone.worker == {"easy": "Senior"}


async def test_every_task_has_a_running_event() -> None:
    run = await run_tasks([task(n, 5) for n in range(6)], time_scale=0.01)
    assert sorted(run.started) == [str(n) for n in range(6)]


# --- real handlers ---------------------------------------------------------------------------

HANDLERS_MODULE = """
from skillq_worker import Context, Handlers
first, second = Handlers(), Handlers()

@first.task
def split(text: str) -> list[str]:
    return text.split()

@second.task
async def join(context: Context, sep: str = "-") -> str:
    (words,) = context.dependencies.values()
    return sep.join(words)

@second.task
def given(context: Context) -> dict[str, object]:
    return dict(context.dependencies)

tries = []

@first.task
def flaky(context: Context) -> int:
    tries.append(context.attempt)
    if len(tries) < 3:
        raise OSError("not yet")
    return context.attempt
"""


@pytest.fixture
def handlers_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    name = f"my_{request.node.name}"
    (tmp_path / f"{name}.py").write_text(HANDLERS_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


async def test_each_worker_runs_the_handlers_of_its_own_task_types(handlers_module: str) -> None:
    workers = [
        {"name": "a", "skill": 5, "handlers": f"{handlers_module}:first"},
        {"name": "b", "skill": 5, "handlers": f"{handlers_module}:second"},
    ]
    run = await run_tasks(
        [
            task("j", type="join", depends_on=["s"], payload={"sep": "+"}),
            task("s", type="split", payload={"text": "one two"}),
        ],
        workers,
    )
    assert run.worker == {"s": "a", "j": "b"}
    assert run.output["j"] == "one+two"


async def test_a_task_that_runs_after_a_failed_dependency_gets_null_as_its_output(
    handlers_module: str,
) -> None:
    workers = [
        {"name": "a", "skill": 5, "handlers": f"{handlers_module}:first"},
        {"name": "b", "skill": 5, "handlers": f"{handlers_module}:second"},
    ]
    failing, good = task("f", type="flaky"), task("s", type="split", payload={"text": "one two"})
    after = task("g", type="given", depends_on=["f", "s"], on_failed_dependency="run")
    run = await run_tasks([failing, good, after], workers)
    assert run.status == {"f": FAILED, "s": SUCCEEDED, "g": SUCCEEDED}
    assert run.output["g"] == {"f": None, "s": ["one", "two"]}


async def test_a_retry_escalated_above_all_skills_goes_to_the_most_skilled_worker(
    handlers_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.005)  # hardly any back-off
    workers = [{"name": "a", "skill": 9, "handlers": f"{handlers_module}:first"}]
    run = await run_tasks([task("f", 9, type="flaky", max_attempts=3, escalate_by=1)], workers)
    assert run.status["f"] is SUCCEEDED


async def test_a_payload_that_does_not_fit_the_signature_fails_with_one_clear_line(
    handlers_module: str,
) -> None:
    workers = [{"name": "a", "skill": 5, "handlers": f"{handlers_module}:first"}]
    run = await run_tasks([task("s", type="split", payload={"txt": "one two"})], workers)
    assert run.status["s"] is FAILED
    assert run.reason["s"] == "payload: text is missing (and 1 more)"


async def test_a_failed_task_is_retried_up_to_its_maximum_of_attempts(
    handlers_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.005)  # hardly any back-off
    workers = [{"name": "a", "skill": 5, "handlers": f"{handlers_module}:first"}]
    run = await run_tasks([task("f", type="flaky", max_attempts=3)], workers)
    assert run.status["f"] is SUCCEEDED
    assert run.output["f"] == 3


# --- tasks that cannot be done are refused before the run starts -----------------------------


async def usage_error(tasks: list[dict[str, Any]], workers: list[dict[str, Any]] = TIERS) -> str:
    with pytest.raises(UsageError) as caught:
        await run_tasks(tasks, workers)
    return str(caught.value)


async def test_a_file_without_workers_is_refused() -> None:
    assert "the file has no workers; add `workers:`" in await usage_error([task(1)], [])


async def test_a_task_that_is_too_difficult_for_all_workers_is_refused_before_the_run_starts() -> (
    None
):
    assert await usage_error([task("ok"), task("x", 10)]) == (
        "task x: no worker can do it: it needs skill 10, the best has 9; add a worker that can do it"
    )


async def test_a_task_whose_required_specialty_no_worker_has_is_refused() -> None:
    assert await usage_error([task("x", requires=["gpu"])]) == (
        "task x: no worker has the specialties it requires: gpu; add a worker that can do it"
    )


async def test_a_task_whose_type_no_worker_handles_is_refused(handlers_module: str) -> None:
    workers = [{"name": "a", "skill": 5, "handlers": f"{handlers_module}:first"}]
    assert await usage_error([task("x", type="speech")], workers) == (
        "task x: no worker handles the type 'speech'; add a worker that can do it"
    )


async def test_an_unhandled_type_is_refused_even_if_the_task_may_relax_or_escalate(
    handlers_module: str,
) -> None:
    workers = [{"name": "a", "skill": 5, "handlers": f"{handlers_module}:first"}]
    for policy in ("relax", "escalate"):
        assert await usage_error([task("x", type="speech", unroutable=policy)], workers) == (
            "task x: no worker handles the type 'speech'; add a worker that can do it"
        )


@pytest.mark.parametrize(
    ("policy", "status", "reason"),
    [
        ("relax", FAILED, "skill 3 is below difficulty 5"),
        ("escalate", FAILED, "skill 3 is below difficulty 5"),
        (
            "reject",
            TaskStatus.DEAD_LETTERED,
            "no worker can do it: it needs skill 5, the best has 3",
        ),
    ],
)
async def test_a_task_that_is_too_difficult_for_all_workers_follows_its_unroutable_policy(
    policy: str, status: TaskStatus, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "UNROUTABLE_CHECK_SECONDS", 0.05)
    hard = task("x", 5, unroutable=policy, unroutable_after=0.01)
    run = await run_tasks([task("ok"), hard], [{"name": "Junior", "skill": 3}])
    assert run.status == {"ok": SUCCEEDED, "x": status}
    assert run.reason["x"] == reason


async def test_a_dependency_on_a_task_outside_the_file_is_refused() -> None:
    assert await usage_error([task("x", depends_on=["gone"])]) == (
        "task x: depends on gone, which is not in the file; add it, or correct the id"
    )


async def test_handlers_that_do_not_load_are_refused() -> None:
    workers = [{"name": "a", "skill": 5, "handlers": "not_there:handlers"}]
    assert "module not_there does not import" in await usage_error([task("x")], workers)
