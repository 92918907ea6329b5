"""Define the tutorial: three workers and three tasks, in two scenarios."""

from typing import NamedTuple

from skillq.forms import TaskForm, WorkerForm, WorkFile

TIME_SCALE = 0.1  # the longest task, of difficulty 8, takes 0.8 s

_T1 = TaskForm(id="1", description="Simple calculation", difficulty=2)
_T2 = TaskForm(id="2", description="Data analysis", difficulty=5)
_T3 = TaskForm(id="3", description="ML model training", difficulty=8)
_WORKERS = (
    WorkerForm(name="Junior", skill=3),
    WorkerForm(name="Intermediate", skill=6),
    WorkerForm(name="Senior", skill=9),
)


class Scenario(NamedTuple):
    """The workers and tasks of a scenario, and its policy."""

    work: WorkFile
    policy: str


SCENARIOS = {
    "well": Scenario(WorkFile(workers=_WORKERS, tasks=(_T1, _T2, _T3)), "best-fit"),
    "failures": Scenario(WorkFile(workers=_WORKERS, tasks=(_T3, _T2, _T1)), "arrival"),
}
