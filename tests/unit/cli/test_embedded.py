"""The whole in one process: what a file says is what is done, once, by the right worker."""

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


class Run:
    """How a file's tasks have ended, and all that was told of them meanwhile."""

    def __init__(self, ended: list[EndedTask], events: list[TaskEvent]) -> None:
        self.ended, self.events = ended, events
        self.status = {e.id: e.status for e in ended}
        self.worker = {e.id: e.worker for e in ended}
        self.reason = {e.id: e.reason for e in ended}
        self.output = {e.id: e.output for e in events if e.status is SUCCEEDED}
        self.begun = [e.id for e in events if e.status is TaskStatus.RUNNING]
        self.assigned = [(e.id, e.worker) for e in events if e.status is TaskStatus.ASSIGNED]


async def do(
    tasks: list[dict[str, Any]],
    workers: list[dict[str, Any]] = TIERS,
    policy: Policy | None = None,
    time_scale: float = 0.001,
) -> Run:
    work = WorkFile.model_validate({"tasks": tasks, "workers": workers})
    events: list[TaskEvent] = []
    async with asyncio.timeout(20):
        ended = await run_embedded(
            work, policy or BestFit(), time_scale, events.append, loop_clock()
        )
    return Run(ended, events)


def task(id: object, difficulty: int = 1, **more: object) -> dict[str, Any]:
    return {"id": id, "difficulty": difficulty} | more


async def test_each_task_goes_to_the_least_skilled_worker_that_can_do_it() -> None:
    run = await do([task(1, 2), task(2, 5), task(3, 8)])
    assert run.worker == {"1": "Junior", "2": "Intermediate", "3": "Senior"}
    assert set(run.status.values()) == {SUCCEEDED}


async def test_in_order_of_arrival_the_first_task_goes_to_the_first_worker_able_or_not() -> None:
    run = await do([task(3, 8), task(2, 5), task(1, 2)], policy=Arrival())
    assert run.worker == {"3": "Junior", "2": "Intermediate", "1": "Senior"}
    assert run.status == {"3": FAILED, "2": SUCCEEDED, "1": SUCCEEDED}
    assert run.reason["3"] == "skill 3 is below difficulty 8"


async def test_more_tasks_than_workers_are_each_done_once_by_one_worker() -> None:
    run = await do([task(n, 1 + n % 9) for n in range(60)])
    assert len(run.ended) == 60
    assert set(run.status.values()) == {SUCCEEDED}
    assert set(Counter(id for id, _ in run.assigned).values()) == {1}
    assert set(run.worker.values()) == {"Junior", "Intermediate", "Senior"}


async def test_tasks_end_in_the_order_of_the_file_in_the_summary() -> None:
    ids = [str(n) for n in range(30)]
    random.Random(7).shuffle(ids)
    run = await do([task(id) for id in ids])
    assert [e.id for e in run.ended] == ids


async def test_higher_priority_goes_first_and_among_equals_the_harder() -> None:
    one = [{"name": "solo", "skill": 9}]
    run = await do(
        [task("low"), task("hard", 9), task("urgent", priority=9), task("mid", 3, priority=2)], one
    )
    assert [id for id, _ in run.assigned] == ["urgent", "mid", "hard", "low"]


async def test_simulated_time_is_difficulty_over_priority() -> None:
    run = await do([task("a", 8), task("b", 8, priority=4)], time_scale=0.01)
    assert run.output["a"] == {"seconds": pytest.approx(0.08), "inputs": []}
    assert run.output["b"] == {"seconds": pytest.approx(0.02), "inputs": []}


async def test_a_specialty_makes_a_worker_two_levels_better_at_its_type() -> None:
    fleet = [{"name": "Expert", "skill": 6, "specialties": ["ocr"]}, {"name": "Boss", "skill": 10}]
    run = await do([task("a", 8, type="ocr"), task("b", 7)], fleet)
    assert run.worker == {"a": "Expert", "b": "Boss"}
    assert set(run.status.values()) == {SUCCEEDED}


async def test_a_task_goes_only_to_workers_that_have_what_it_requires() -> None:
    fleet = [
        {"name": "plain", "skill": 10},
        {"name": "gpu box", "skill": 5, "specialties": ["gpu"]},
    ]
    run = await do([task(n, requires=["gpu"]) for n in range(5)], fleet)
    assert set(run.worker.values()) == {"gpu box"}


async def test_a_task_begins_when_its_dependencies_have_succeeded_and_gets_their_outputs() -> None:
    run = await do(
        [
            task("end", depends_on=["left", "right"], priority=100),
            task("left", depends_on=["start"]),
            task("right", depends_on=["start"]),
            task("start", 9),
        ]
    )
    given = [id for id, _ in run.assigned]
    assert (given[0], given[-1]) == ("start", "end")
    output = run.output["end"]
    assert isinstance(output, dict)
    assert output["inputs"] == ["left", "right"]


async def test_what_depends_on_a_task_that_failed_fails_and_says_why() -> None:
    run = await do([task("a", 8), task("b", depends_on=["a"]), task("c", depends_on=["b"])],
                   [{"name": "Junior", "skill": 3}], Arrival())  # fmt: skip
    assert set(run.status.values()) == {FAILED}
    assert run.reason["b"] == "dependency a failed"
    assert run.worker["b"] is None


async def test_a_task_that_takes_too_long_has_timed_out() -> None:
    run = await do([task("slow", 9, timeout=0.02), task("quick")], time_scale=0.1)
    assert run.status == {"slow": TIMED_OUT, "quick": SUCCEEDED}
    assert run.reason["slow"] == "took longer than 0.02 s"


async def test_a_worker_with_slots_does_so_many_at_a_time() -> None:
    run = await do([task(n) for n in range(8)], [{"name": "wide", "skill": 9, "slots": 4}])
    first_ends = next(i for i, e in enumerate(run.events) if e.status is SUCCEEDED)
    assert sum(e.status is TaskStatus.ASSIGNED for e in run.events[:first_ends]) == 4


async def test_a_reserved_worker_leaves_easy_tasks_to_others_and_takes_them_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    team = [{"name": "Junior", "skill": 3}, {"name": "Senior", "skill": 9, "reserve": 6}]
    run = await do([task(n, 2) for n in range(6)] + [task("hard", 6)], team)
    assert run.worker == {"hard": "Senior"} | {str(n): "Junior" for n in range(6)}

    def impatient() -> LeasePolicy:
        return LeasePolicy(reserve_for=0.05, sweep_every=0.02)

    monkeypatch.setattr("skillq_manager.core.state.LeasePolicy", impatient)
    alone = await do([task("easy", 2)], team[1:])
    assert alone.worker == {"easy": "Senior"}


async def test_every_task_is_seen_running() -> None:
    run = await do([task(n, 5) for n in range(6)], time_scale=0.01)
    assert sorted(run.begun) == [str(n) for n in range(6)]


# --- real handlers ---------------------------------------------------------------------------

MY_TASKS = """
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
def my_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    name = f"my_{request.node.name}"
    (tmp_path / f"{name}.py").write_text(MY_TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


async def test_workers_with_handlers_do_real_work_each_its_types(my_tasks: str) -> None:
    fleet = [
        {"name": "a", "skill": 5, "handlers": f"{my_tasks}:first"},
        {"name": "b", "skill": 5, "handlers": f"{my_tasks}:second"},
    ]
    run = await do(
        [
            task("j", type="join", depends_on=["s"], payload={"sep": "+"}),
            task("s", type="split", payload={"text": "one two"}),
        ],
        fleet,
    )
    assert run.worker == {"s": "a", "j": "b"}
    assert run.output["j"] == "one+two"


async def test_what_runs_all_the_same_gets_nothing_of_the_dependency_that_failed(
    my_tasks: str,
) -> None:
    fleet = [
        {"name": "a", "skill": 5, "handlers": f"{my_tasks}:first"},
        {"name": "b", "skill": 5, "handlers": f"{my_tasks}:second"},
    ]
    failing, good = task("f", type="flaky"), task("s", type="split", payload={"text": "one two"})
    after = task("g", type="given", depends_on=["f", "s"], on_failed_dependency="run")
    run = await do([failing, good, after], fleet)
    assert run.status == {"f": FAILED, "s": SUCCEEDED, "g": SUCCEEDED}
    assert run.output["g"] == {"f": None, "s": ["one", "two"]}


async def test_a_retry_that_would_need_more_skill_than_anyone_has_goes_to_the_best(
    my_tasks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.005)  # hardly any back-off
    fleet = [{"name": "a", "skill": 9, "handlers": f"{my_tasks}:first"}]
    run = await do([task("f", 9, type="flaky", max_attempts=3, escalate_by=1)], fleet)
    assert run.status["f"] is SUCCEEDED


async def test_a_payload_that_does_not_fit_the_signature_fails_with_one_clear_line(
    my_tasks: str,
) -> None:
    fleet = [{"name": "a", "skill": 5, "handlers": f"{my_tasks}:first"}]
    run = await do([task("s", type="split", payload={"txt": "one two"})], fleet)
    assert run.status["s"] is FAILED
    assert run.reason["s"] == "payload: text is missing (and 1 more)"


async def test_a_failure_is_tried_again_as_often_as_the_file_allows(
    my_tasks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.005)  # hardly any back-off
    fleet = [{"name": "a", "skill": 5, "handlers": f"{my_tasks}:first"}]
    run = await do([task("f", type="flaky", max_attempts=3)], fleet)
    assert run.status["f"] is SUCCEEDED
    assert run.output["f"] == 3


# --- what cannot be done is said before anything is done -------------------------------------


async def refusal(tasks: list[dict[str, Any]], workers: list[dict[str, Any]] = TIERS) -> str:
    with pytest.raises(UsageError) as caught:
        await do(tasks, workers)
    return str(caught.value)


async def test_a_file_without_workers_is_refused() -> None:
    assert "the file has no workers; add `workers:`" in await refusal([task(1)], [])


async def test_a_task_too_hard_for_all_is_refused_before_anything_begins() -> None:
    assert await refusal([task("ok"), task("x", 10)]) == (
        "task x: no worker can do it: it needs skill 10, the best has 9; add a worker that can do it"
    )


async def test_a_task_whose_specialty_nobody_has_is_refused() -> None:
    assert await refusal([task("x", requires=["gpu"])]) == (
        "task x: no worker has the specialties it requires: gpu; add a worker that can do it"
    )


async def test_a_task_whose_type_nobody_handles_is_refused(my_tasks: str) -> None:
    fleet = [{"name": "a", "skill": 5, "handlers": f"{my_tasks}:first"}]
    assert await refusal([task("x", type="speech")], fleet) == (
        "task x: no worker handles the type 'speech'; add a worker that can do it"
    )


async def test_asking_for_less_does_not_help_where_nobody_handles_the_type(my_tasks: str) -> None:
    fleet = [{"name": "a", "skill": 5, "handlers": f"{my_tasks}:first"}]
    for policy in ("relax", "escalate"):
        assert await refusal([task("x", type="speech", unroutable=policy)], fleet) == (
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
async def test_a_task_too_hard_for_all_is_treated_as_it_says(
    policy: str, status: TaskStatus, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "UNROUTABLE_CHECK_SECONDS", 0.05)
    hard = task("x", 5, unroutable=policy, unroutable_after=0.01)
    run = await do([task("ok"), hard], [{"name": "Junior", "skill": 3}])
    assert run.status == {"ok": SUCCEEDED, "x": status}
    assert run.reason["x"] == reason


async def test_a_dependency_that_is_not_in_the_file_is_refused() -> None:
    assert await refusal([task("x", depends_on=["gone"])]) == (
        "task x: depends on gone, which is not in the file; add it, or correct the id"
    )


async def test_handlers_that_do_not_load_are_refused() -> None:
    fleet = [{"name": "a", "skill": 5, "handlers": "not_there:handlers"}]
    assert "module not_there does not import" in await refusal([task("x")], fleet)
