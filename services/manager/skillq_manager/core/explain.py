"""Explain why a task is in its status, and what each worker has to do with it.

The sentences are for users: the web API and the command line show them.
"""

from skillq.messages import TaskStatus
from skillq_manager.core.model import Need, TaskEntry, TaskKey, WorkerEntry
from skillq_manager.core.rules.matching import why_not, why_unable
from skillq_manager.core.state import State


def reason(state: State, key: TaskKey, now: float) -> str | None:
    """Return why a task is in its status, or None if the task is not in memory."""
    task = state.tasks.live.get(key)
    if task is None:
        return None
    if task.worker is not None:
        return f"attempt {task.attempt} is with {task.worker.profile.title}"
    if task.status is TaskStatus.BLOCKED:
        return f"waits for {task.unmet_dependencies} of the tasks it depends on"
    if task.retry_at is not None:
        return f"is retried in {max(0.0, task.retry_at - now):.1f} s"
    return _why_ready_task_waits(state, task.need)


def reason_in_backlog(state: State, need: Need) -> str | None:
    """Return why tasks with this need wait in the backlog, or None if there is no backlog."""
    return _why_ready_task_waits(state, need) if state.board.has_backlog(need) else None


def verdicts(state: State, key: TaskKey) -> list[tuple[str, str]]:
    """Return, for each worker, its title and why it has, could have or cannot have the task.

    The list is empty if the task is not in memory.
    """
    task = state.tasks.live.get(key)
    return [] if task is None else _verdicts(state, task.need, task)


def verdicts_in_backlog(state: State, need: Need) -> list[tuple[str, str]]:
    """Return the verdicts on a ready task in the backlog; empty if there is no backlog."""
    return _verdicts(state, need, None) if state.board.has_backlog(need) else []


def _verdicts(state: State, need: Need, task: TaskEntry | None) -> list[tuple[str, str]]:
    workers = sorted(state.workers.workers.values(), key=lambda worker: worker.name)
    return [(worker.profile.title, _verdict(state, need, worker, task)) for worker in workers]


def _verdict(state: State, need: Need, worker: WorkerEntry, task: TaskEntry | None) -> str:
    if task is not None and task.worker is worker:
        return f"has it: attempt {task.attempt}"
    if worker.name in need.excluded:
        return "failed it before"
    if not state.board.policy.can(worker.skills, need):
        return why_not(worker.skills, need)
    if worker.draining or worker.suspect:
        return "is leaving" if worker.draining else "has sent no heartbeat for some time"
    if not worker.is_free:
        return f"could do it; all of its {worker.slots} slots are taken"
    return "could do it, and has a free slot"


def _why_ready_task_waits(state: State, need: Need) -> str:
    connected = len(state.workers.workers)
    if state.expected_workers:
        return f"waits for workers: {connected} of {state.expected_workers} expected are connected"
    capable = sum(1 for _ in state.board.capable_workers(need))
    if capable:
        return f"waits for a slot: {capable} of {connected} workers can do it, none is free"
    return why_unable([worker.skills for worker in state.workers.workers.values()], need)
