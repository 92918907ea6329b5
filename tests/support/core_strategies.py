"""Hypothesis strategies from which the state machine draws tasks and workers."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import hypothesis.strategies as st

from skillq.messages import TERMINAL, Outcome, TaskStatus, Unroutable
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey

T = TypeVar("T")

COMMON_OUTCOMES = (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.TIMED_OUT)
UNSUCCESSFUL = TERMINAL - {TaskStatus.SUCCEEDED}
RUNS = ("alpha", "beta", "Beta")  # the last two have the same name
FIRST_WORKERS = (("ada", 4), ("bob", 9))
TYPES = ("task", "ocr", "gpu")
INDEXES = st.integers(0, 10_000)  # modulo the length of a list
WORKER_NAMES = st.sampled_from(("ada", "bob", "cyd"))
SPECIALTIES = st.lists(st.sampled_from(TYPES), max_size=2)
TASKS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    difficulty=st.integers(1, 5) | st.integers(1, 10),
    type=st.sampled_from(TYPES),
    priority=st.integers(1, 3),
    requires=st.sampled_from([(), (), (), ("ocr",), ("gpu",)]),
    max_attempts=st.integers(1, 3),
    timeout=st.sampled_from([None, None, 1.0]),
    deadline=st.sampled_from([None, None, None, 8.0, 40.0]),
    retry_on=st.sampled_from([(), (), ("OSError",)]),
    escalate_by=st.sampled_from([0, 0, 3]),
    on_failed_dependency=st.sampled_from(["fail", "fail", "run"]),
    unroutable=st.sampled_from(Unroutable),
    unroutable_after=st.sampled_from([0.001, 5.0, 60.0]),
)
WORKERS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    skill=st.integers(1, 10),
    slots=st.integers(1, 3),
    specialties=SPECIALTIES,
    types=st.none() | st.just(TYPES[:2]),
    reserve=st.sampled_from([0, 0, 5]),
)


def run_times(seconds: float | None) -> dict[str, float]:
    return {} if seconds is None else {"started_at": 3.0, "finished_at": 3.0 + seconds}


def item_at(items: Sequence[T], index: int) -> T:
    return items[index % len(items)]


def holder_of(assignment: c.Assign) -> tuple[int, str, str]:
    return assignment.attempt, assignment.worker.name, assignment.worker.incarnation


class PendingRetry(NamedTuple):
    """A request to retry tasks; the oracle looks the tasks up when the round begins."""

    keys: list[TaskKey]
