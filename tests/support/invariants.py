"""What is true of a state between two turns, whatever has happened. Tests ask after every step."""

from collections import Counter

from skillq.messages import TaskStatus
from skillq_manager.core.model import TaskEntry, WorkerEntry
from skillq_manager.core.state import State
from skillq_manager.core.timers import TimerKind

_ROUNDING = 1e-6


class InvariantBroken(AssertionError):
    """Raised when a state contradicts itself: a bug in the core."""


def validate(state: State) -> None:
    """Look at all that the state holds.

    Raises:
        InvariantBroken: with what is wrong, and with whom.
    """
    _check_dependencies(state)
    _check_places(state)
    _check_workers(state)
    _check_counts(state)
    _check_backlog(state)
    _check_no_missed_match(state)


def _require(truth: bool, *what: object) -> None:
    if not truth:
        raise InvariantBroken(" ".join(str(word) for word in what))


def _check_dependencies(state: State) -> None:
    """A task is blocked as long as it is registered with tasks that have not succeeded."""
    registered = Counter(task for waiting in state.tasks.dependents.values() for task in waiting)
    shelved = _backlog_counts(state)
    for key in state.tasks.dependents:
        is_open = key in state.tasks.live or shelved[key[0]] > 0
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
    """A live task is in the one place that its status says."""
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
            there = state.workers.workers.get(task.worker.name) is task.worker
            _require(there, task, "is with a worker that is not there")
            _require(task.worker.attempts.get(key) is task, task, "is not held by its worker")
    _require(all(task.key in state.tasks.live for task in timed), "a timer is of a task that ended")


def _expected_places(task: TaskEntry) -> list[bool]:
    ready = task.status is TaskStatus.READY
    held = task.status in {TaskStatus.ASSIGNED, TaskStatus.RUNNING}
    later = ready and task.retry_at is not None
    return [task.status is TaskStatus.BLOCKED, ready and not later, later, held]


def _check_workers(state: State) -> None:
    """A worker holds live tasks only, its own, and not too many; what it has to do is known."""
    for name, worker in state.workers.workers.items():
        _require(worker.name == name, worker.name, "is kept under the name", name)
        _check_load(state, worker)
        for key, task in worker.attempts.items():
            _require(state.tasks.live.get(key) is task, name, "holds a task that has ended:", key)
            _require(task.worker is worker, name, "holds a task of another worker:", key)


def _check_load(state: State, worker: WorkerEntry) -> None:
    """Beyond its slots it has at most so many, all of them of known duration, and none that was lost before."""
    policy, name = state.lookahead.policy, worker.name
    ahead = len(worker.attempts) - worker.slots
    most = policy.max_prefetched if state.board.policy.looks_ahead else 0
    _require(ahead <= most, name, "has", ahead, "attempts more than slots")
    _require((worker in state.board.overcommitted) == (ahead > 0), name, "is miscounted as laden")
    known = [t.estimate for t in worker.attempts.values() if t.estimate is not None]
    _require(
        worker.unknown_attempts == len(worker.attempts) - len(known), name, "miscounts the unknown"
    )
    long = [seconds for seconds in known if seconds >= policy.max_seconds]
    _require(worker.long_attempts == len(long), name, "miscounts the long ones")
    load = sum(known) - sum(long)
    _require(abs(worker.load - load) < _ROUNDING, name, "has", load, "s to do, not", worker.load)


def _check_counts(state: State) -> None:
    live = state.tasks.live
    shelved = _backlog_counts(state)
    _require(all(n > 0 for n in shelved.values()), "open tasks are miscounted")
    _require(not shelved or any(state.board.backlog_queues()), "tasks are nowhere:", shelved)
    ready = sum(task.ticket > 0 for task in live.values())
    _require(ready == state.board.ready_count, "waiting tasks are miscounted")


def _backlog_counts(state: State) -> Counter[str]:
    """How many tasks are open and not here, by run."""
    counts = Counter(state.tasks.open)
    counts.subtract(run for run, _ in state.tasks.live)
    return Counter({run: n for run, n in counts.items() if n})


def _check_backlog(state: State) -> None:
    """It is known of what part of the tasks is on the shelf, and nothing of those is asked for that nobody wants."""
    dry = set()
    for cls, is_known in state.board.backlog_queues():
        _require(cls.is_exhausted == is_known, cls.need, "is dry or is not, and that is not known")
        dry |= {cls.need} if cls.is_exhausted else set()
    _require({wanted.need for wanted in state.refills} <= dry, "what is here is asked for")


def _check_no_missed_match(state: State) -> None:
    """Nobody waits for each other, unless all wait for workers that are still to come."""
    if state.expected_workers or state.refills:
        return
    free = [worker for worker in state.workers.workers.values() if worker.is_free]
    for task in state.tasks.live.values():
        if task.ticket:
            _require(not _able_workers(state, task, free), task.key, "waits, a worker is free")
    if state.board.policy.looks_ahead:
        _check_no_missed_prefetch(state)


def _check_no_missed_prefetch(state: State) -> None:
    """What goes first of all that a worker with room could do is not allowed to go ahead."""
    for worker in state.workers.workers.values():
        if worker.is_free or not state.lookahead.has_prefetch_room(worker):
            continue
        ready = (task for task in state.tasks.live.values() if task.ticket)
        able = [task for task in ready if _able_workers(state, task, [worker])]
        first = min(able, key=state.board.policy.task_rank, default=None)
        may = first is not None and state.lookahead.may_prefetch(first)
        _require(not may, worker.name, "has room for a task that waits")


def _able_workers(state: State, task: TaskEntry, free: list[WorkerEntry]) -> list[str]:
    """A worker's skills name it only on the board; whom the task excludes is asked here."""
    fit = (w.name for w in free if state.board.policy.can(w.skills, task.need))
    return [name for name in fit if name not in task.need.excluded]
