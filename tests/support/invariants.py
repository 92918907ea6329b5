"""Check the invariants of a core state between two rounds."""

from collections import Counter

from skillq.messages import TaskStatus
from skillq_manager.core.model import TaskEntry, WorkerEntry
from skillq_manager.core.state import State
from skillq_manager.core.timers import TimerKind

_ROUNDING = 1e-6


class InvariantBroken(AssertionError):
    """Raised when a state contradicts itself: a bug in the core."""


def validate(state: State) -> None:
    """Check all invariants of a state.

    Raises:
        InvariantBroken: names what is wrong, and the task or worker.
    """
    _check_dependencies(state)
    _check_places(state)
    _check_workers(state)
    _check_counts(state)
    _check_backlog(state)
    _check_no_missed_match(state)


def _require(condition: bool, *message: object) -> None:
    if not condition:
        raise InvariantBroken(" ".join(str(word) for word in message))


def _check_dependencies(state: State) -> None:
    """Check that a task is blocked exactly while it waits for open dependencies."""
    registered = Counter(task for waiting in state.tasks.dependents.values() for task in waiting)
    in_backlog = _backlog_counts(state)
    for key in state.tasks.dependents:
        is_open = key in state.tasks.live or in_backlog[key[0]] > 0
        _require(is_open, key, "has ended, yet tasks wait for it")
    for task in state.tasks.live.values():
        blocked = task.status is TaskStatus.BLOCKED
        _require(
            blocked == (task.unmet_dependencies > 0), task, "waits for a wrong number of tasks"
        )
        _require(
            task.unmet_dependencies == registered[task],
            task,
            "is registered a wrong number of times",
        )


def _check_places(state: State) -> None:
    """Check that each live task is in one place, and that this place fits its status."""
    timed = Counter(task for _, kind, task in state.tasks.timers if kind is TimerKind.RETRY)
    for key, task in state.tasks.live.items():
        _require(task.key == key, task, "is kept under the key", key)
        places = [
            task.unmet_dependencies > 0,
            task.ticket > 0,
            timed[task] == 1,
            task.worker is not None,
        ]
        _require(places == _expected_places(task), task, "is in the wrong places:", places)
        if task.worker is not None:
            is_connected = state.workers.workers.get(task.worker.name) is task.worker
            _require(is_connected, task, "is with a worker that is not connected")
            _require(task.worker.attempts.get(key) is task, task, "is not held by its worker")
    _require(all(task.key in state.tasks.live for task in timed), "a timer is of a task that ended")


def _expected_places(task: TaskEntry) -> list[bool]:
    ready = task.status is TaskStatus.READY
    held = task.status in {TaskStatus.ASSIGNED, TaskStatus.RUNNING}
    in_back_off = ready and task.retry_at is not None
    return [task.status is TaskStatus.BLOCKED, ready and not in_back_off, in_back_off, held]


def _check_workers(state: State) -> None:
    """Check that each worker holds only live tasks of its own, not too many, and that its load is right."""
    for name, worker in state.workers.workers.items():
        _require(worker.name == name, worker.name, "is kept under the name", name)
        _check_load(state, worker)
        for key, task in worker.attempts.items():
            _require(state.tasks.live.get(key) is task, name, "holds a task that has ended:", key)
            _require(task.worker is worker, name, "holds a task of another worker:", key)


def _check_load(state: State, worker: WorkerEntry) -> None:
    """Check the number and the estimated load of the attempts of one worker."""
    policy, name = state.lookahead.policy, worker.name
    prefetched = len(worker.attempts) - worker.slots
    limit = policy.max_prefetched if state.board.policy.looks_ahead else 0
    _require(prefetched <= limit, name, "has", prefetched, "attempts more than slots")
    _require(
        (worker in state.board.overcommitted) == (prefetched > 0),
        name,
        "is wrongly listed as overcommitted, or is missing there",
    )
    known = [t.estimate for t in worker.attempts.values() if t.estimate is not None]
    _require(
        worker.unknown_attempts == len(worker.attempts) - len(known),
        name,
        "has a wrong count of attempts of unknown duration",
    )
    long = [seconds for seconds in known if seconds >= policy.max_seconds]
    _require(worker.long_attempts == len(long), name, "has a wrong count of long attempts")
    load = sum(known) - sum(long)
    _require(abs(worker.load - load) < _ROUNDING, name, "has", load, "s of load, not", worker.load)


def _check_counts(state: State) -> None:
    live = state.tasks.live
    in_backlog = _backlog_counts(state)
    _require(all(n > 0 for n in in_backlog.values()), "open tasks are miscounted")
    _require(not in_backlog or any(state.board.backlog_queues()), "tasks are nowhere:", in_backlog)
    ready = sum(task.ticket > 0 for task in live.values())
    _require(ready == state.board.ready_count, "ready tasks are miscounted")


def _backlog_counts(state: State) -> Counter[str]:
    """Return the number of open tasks that are only in the backlog, by run."""
    counts = Counter(state.tasks.open)
    counts.subtract(run for run, _ in state.tasks.live)
    return Counter({run: n for run, n in counts.items() if n})


def _check_backlog(state: State) -> None:
    """Check that exhausted task queues are known, and that refills are requested only for these."""
    exhausted = set()
    for queue, is_known in state.board.backlog_queues():
        _require(
            queue.is_exhausted == is_known, queue.need, "is listed with a wrong exhausted mark"
        )
        exhausted |= {queue.need} if queue.is_exhausted else set()
    _require(
        {wanted.need for wanted in state.refills} <= exhausted,
        "a refill is requested for a need that is not exhausted",
    )


def _check_no_missed_match(state: State) -> None:
    """Check that no ready task could go to a free worker, unless workers or refills are still expected."""
    if state.expected_workers or state.refills:
        return
    free = [worker for worker in state.workers.workers.values() if worker.is_free]
    for task in state.tasks.live.values():
        if task.ticket:
            _require(not _able_workers(state, task, free), task.key, "waits, a worker is free")
    if state.board.policy.looks_ahead:
        _check_no_missed_prefetch(state)


def _check_no_missed_prefetch(state: State) -> None:
    """Check that the first task that a worker with room could do may not be prefetched."""
    for worker in state.workers.workers.values():
        if worker.is_free or not state.lookahead.has_prefetch_room(worker):
            continue
        ready = (task for task in state.tasks.live.values() if task.ticket)
        able = [task for task in ready if _able_workers(state, task, [worker])]
        first = min(able, key=state.board.policy.task_rank, default=None)
        is_allowed = first is not None and state.lookahead.may_prefetch(first)
        _require(not is_allowed, worker.name, "has room for a task that waits")


def _able_workers(state: State, task: TaskEntry, free: list[WorkerEntry]) -> list[str]:
    """Return the names of the workers that can do a task; skills do not contain exclusions by name."""
    names = (w.name for w in free if state.board.policy.can(w.skills, task.need))
    return [name for name in names if name not in task.need.excluded]
