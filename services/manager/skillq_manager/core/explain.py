"""Why a task waits."""

from skillq.messages import TaskStatus
from skillq_manager.core.model import Need, TaskEntry, TaskKey, WorkerEntry
from skillq_manager.core.rules.matching import why_not, why_unable
from skillq_manager.core.state import State


def reason(state: State, key: TaskKey, now: float) -> str | None:
    """Why a task that has not ended is where it is, in a sentence; None for one that has."""
    task = state.tasks.live.get(key)
    return None if task is None else _why(state, task, now)


def reason_in_backlog(state: State, need: Need) -> str | None:
    """The same of a task that is ready and not here; None where there is no shelf for it."""
    return _why_waiting(state, need) if state.board.has_backlog(need) else None


def verdicts(state: State, key: TaskKey) -> list[tuple[str, str]]:
    """Worker by worker, as its user wrote it: why this one has, could have, or cannot have the task."""
    task = state.tasks.live.get(key)
    if task is None:
        return []
    return [(w.profile.title, _verdict(state, task.need, w, task)) for w in _by_name(state)]


def verdicts_in_backlog(state: State, need: Need) -> list[tuple[str, str]]:
    """The same of a task that is ready and not here."""
    if not state.board.has_backlog(need):
        return []
    return [(w.profile.title, _verdict(state, need, w)) for w in _by_name(state)]


def _by_name(state: State) -> list[WorkerEntry]:
    return sorted(state.workers.workers.values(), key=lambda worker: worker.name)


def _verdict(state: State, need: Need, worker: WorkerEntry, task: TaskEntry | None = None) -> str:
    if task is not None and task.worker is worker:
        return f"has it: attempt {task.attempt}"
    if worker.name in need.excluded:
        return "failed it before"
    if not state.board.policy.can(worker.skills, need):
        return why_not(worker.skills, need)
    if worker.draining or worker.suspect:
        return "is leaving" if worker.draining else "has not been heard of lately"
    if not worker.is_free:
        return f"could do it; all of its {worker.slots} slots are taken"
    return "could do it, and has a free slot"


def _why(state: State, task: TaskEntry, now: float) -> str:
    if task.worker is not None:
        return f"attempt {task.attempt} is with {task.worker.profile.title}"
    if task.status is TaskStatus.BLOCKED:
        return f"waits for {task.waits_for} of the tasks it depends on"
    if task.retry_at is not None:
        return f"is tried again in {max(0.0, task.retry_at - now):.1f} s"
    return _why_waiting(state, task.need)


def _why_waiting(state: State, need: Need) -> str:
    if state.expected_workers:
        return f"waits for workers: {len(state.workers.workers)} of {state.expected_workers} expected are there"
    capable = sum(1 for _ in state.board.capable(need))
    if capable:
        return f"waits for a slot: {capable} of {len(state.workers.workers)} workers can do it, none is free"
    return why_unable([worker.skills for worker in state.workers.workers.values()], need)
