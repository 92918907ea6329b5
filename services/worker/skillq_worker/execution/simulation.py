"""Simulate work: a task takes some time, and succeeds if the worker's skill suffices."""

import asyncio

from pydantic import JsonValue

from skillq.messages import SPECIALTY_BONUS, TaskAssignment, WorkerProfile
from skillq_worker.execution.executor import CancelJob, Job, run_in_task
from skillq_worker.execution.failures import TaskFailed


class Simulation:
    """An executor of any type; a task takes `difficulty / priority * time_scale` seconds."""

    types = None

    def __init__(self, profile: WorkerProfile, time_scale: float) -> None:
        self._skill = profile.skill
        self._specialties = frozenset(profile.specialties)
        self._time_scale = time_scale

    def start(self, job: Job) -> CancelJob:
        """Implements `skillq_worker.execution.executor.Executor.start`."""
        return run_in_task(self._work(job.assignment), job)

    async def _work(self, task: TaskAssignment) -> JsonValue:
        seconds = task.difficulty / task.priority * self._time_scale
        await asyncio.sleep(seconds)
        missing = [name for name in task.requires if name not in self._specialties]
        if missing:
            raise TaskFailed(f"specialty {', '.join(missing)} is missing")
        skill = self._skill + (SPECIALTY_BONUS if task.task_type in self._specialties else 0)
        if skill < task.difficulty:
            raise TaskFailed(f"skill {skill} is below difficulty {task.difficulty}")
        return {"seconds": seconds, "inputs": list(task.dependencies)}
