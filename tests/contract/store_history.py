"""Build commands, and generate a random history of the core to compare stores."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import JsonValue

from skillq.messages import (
    AttemptRef,
    Connect,
    Disconnect,
    Heartbeat,
    Outcome,
    Progress,
    ProgressItem,
    Submission,
    Task,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerEventKind,
    WorkerProfile,
    slug,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.model import TaskKey
from skillq_manager.core.rules.matching import BestFit
from skillq_manager.core.state import State
from skillq_manager.store.base import Body, Store, TaskFilter

RUN = "r"
SUCCEEDED = TaskStatus.SUCCEEDED


def worker(title: str = "Ada", incarnation: str = "1", **more: Any) -> WorkerProfile:
    return WorkerProfile(
        name=slug(title), title=title, incarnation=incarnation, **{"skill": 5} | more
    )


ADA = worker()


def add(
    seq: int, id: str, status: TaskStatus = TaskStatus.READY, *, run: str = RUN, **more: Any
) -> c.AddTask:
    task = Task(id=id, **{"difficulty": 1} | more)
    return c.AddTask((run, id), seq, run.upper(), task, task.fingerprint(), status, 100.0 + seq)


def assign(
    id: str, attempt: int = 1, worker_profile: WorkerProfile = ADA, *, run: str = RUN
) -> c.Assign:
    return c.Assign((run, id), "task", attempt, worker_profile, 200.0 + attempt)


def start(id: str, attempt: int = 1, worker_profile: WorkerProfile = ADA) -> c.StartAttempt:
    return c.StartAttempt((RUN, id), "task", attempt, worker_profile, 300.0 + attempt)


def end(
    id: str,
    attempt: int = 1,
    status: TaskStatus = SUCCEEDED,
    outcome: Outcome = Outcome.SUCCEEDED,
    *,
    reason: str | None = None,
    output: Any = None,
    run: str = RUN,
    **more: Any,
) -> c.EndAttempt:
    result = TaskResult(
        run=run, id=id, attempt=attempt, outcome=outcome, output=output, error=reason, **more
    )
    at = 400.0 + attempt
    return c.EndAttempt(
        (run, id), "task", attempt, ADA, outcome, status, reason, result, None, 0, 0, at
    )


def fail(id: str, attempt: int = 1, **more: Any) -> c.EndAttempt:
    """Return the end of an attempt that failed and is retried."""
    ended = end(id, attempt, TaskStatus.READY, Outcome.FAILED, reason=f"no {attempt}", **more)
    return replace(ended, failures=attempt)


def stale(id: str, attempt: int = 1, **more: Any) -> c.RecordStaleResult:
    result = TaskResult(run=RUN, id=id, attempt=attempt, outcome=Outcome.FAILED, **more)
    return c.RecordStaleResult(result, "unknown", "0")


def set_status(id: str, status: TaskStatus, attempt: int = 0) -> c.SetStatus:
    return c.SetStatus((RUN, id), "task", status, "some reason", attempt, 500.0)


def reopen(id: str, attempt: int = 1) -> c.Reopen:
    return c.Reopen((RUN, id), "task", TaskStatus.READY, attempt, 600.0)


async def snapshot(store: Store, keys: Iterable[TaskKey]) -> dict[str, Any]:
    """Return all that a store shows."""
    keys = list(keys)
    return {
        "runs": await store.runs(),
        "each run": [await store.run(run) for run in sorted({run for run, _ in keys})],
        "pages": await all_pages(store, TaskFilter(limit=7)),
        "tasks": [await store.task(key) for key in keys],
        "workers": await store.workers(),
        "live": [
            replace(row, like=with_body(row.like, row.id))
            async for page in store.load()
            for row in page
        ],
        "last_seq": await store.last_seq(),
        "known": await store.known_tasks(keys),
        "bodies": {
            key: (task_with_body(key[1], body), body.dependencies)
            for key, body in (await store.bodies(keys)).items()
        },
    }


def with_body(like: Task, id: str, description: str = "", payload: Any = None) -> Task:
    own = {"id": id, "description": description, "payload": payload or {}}
    return like.model_copy(update=own)


def task_with_body(id: str, body: Body) -> Task:
    """Return the task with this id and body."""
    return with_body(body.like, id, body.description, body.payload)


async def all_pages(store: Store, wanted: TaskFilter) -> list[Any]:
    """Return all tasks that match, read page by page."""
    found: list[Any] = []
    while rows := await store.tasks(wanted):
        found += rows
        wanted = TaskFilter(
            wanted.run, wanted.status, wanted.type, wanted.worker, wanted.limit, rows[-1].seq
        )
    return found


_OUTPUTS: list[JsonValue] = [None, 0, False, "", [1, {"a": None}], 1e300]


class RandomHistory:
    """The commands of a real core on random events of clients and workers."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._state = State(BestFit(), chance=self._random.random)
        self._now = 1000.0
        self._known: dict[TaskKey, e.StoredStatus] = {}
        self._tasks: dict[TaskKey, c.AddTask] = {}
        self._attempts: dict[TaskKey, int] = {}
        self._assigned: list[c.Assign] = []
        self._incarnation = 0
        self._workers: dict[str, WorkerProfile] = {}

    @property
    def keys(self) -> list[TaskKey]:
        return [*self._tasks, ("nowhere", "x")]

    def next_commands(self) -> list[c.Command]:
        """Return the commands of the core on a few random events."""
        self._now += self._random.choice([0.0, 0.5, 3.0, 20.0])
        kinds = [self._submit, self._connect, self._report, self._report, self._progress]
        kinds += [self._disconnect, self._heartbeat, self._cancel, self._retry, self._return]
        weights = [4, 3, 9, 9, 5, 1, 6, 1, 2, 1]
        chosen = self._random.choices(kinds, weights, k=self._random.randint(1, 6))
        events = [event for make in chosen for event in make()]
        commands = list(self._state.handle(events, self._now))
        for command in commands:
            self._remember(command)
        return commands

    def _remember(self, command: c.Command) -> None:
        match command:
            case c.AddTask(key=key):
                self._tasks[key] = command
                self._known[key] = e.StoredStatus(command.status, command.fingerprint)
                self._attempts[key] = 0
            case c.Assign(key=key):
                self._assigned.append(command)
                self._attempts[key] = command.attempt
                self._known[key] = self._known[key]._replace(status=TaskStatus.ASSIGNED)
            case c.SetStatus(key=key) | c.EndAttempt(key=key) | c.Reopen(key=key):
                self._known[key] = self._known[key]._replace(status=command.status)
            case _:
                pass

    # --- random events

    def _submit(self) -> list[e.Event]:
        run = self._random.choice(["Alpha", "Beta 2"])
        tasks = [self._task() for _ in range(self._random.randint(1, 5))]
        tasks = list({task.id: task for task in tasks}.values())
        name = slug(run)
        ids = {key[1] for key in self._known if key[0] == name} | {task.id for task in tasks}
        tasks = [
            task
            if all(other in ids and int(other) < int(task.id) for other in task.depends_on)
            else task.model_copy(update={"depends_on": ()})
            for task in tasks
        ]
        title = run if any(key[0] == name for key in self._known) else None
        submission = Submission(submission_id="s", run=name, run_title=run, tasks=tuple(tasks))
        return [e.SubmissionReceived(submission, dict(self._known), title)]

    def _task(self) -> Task:
        number = self._random.randint(1, 120)
        own = random.Random(number)  # the same id mostly has the same definition
        return Task(
            id=str(number),
            difficulty=own.randint(1, 10),
            type=own.choice(["task", "gpu"]),
            priority=own.randint(1, 3),
            depends_on=tuple(str(number - 1 - n) for n in range(own.choice([0, 0, 0, 1, 2]))),
            payload=own.choice([{}, {}, {"n": number}, {"text": "ä\n\"'\u2028"}]),
            max_attempts=own.choice([1, 2, 3]),
            escalate_by=own.choice([0, 2]),
            deadline=own.choice([None, None, 90.0]),
            description=self._random.choice(["", "", "", "another"]),
        )

    def _profile(self) -> WorkerProfile:
        title = self._random.choice(["Ada", "Bob", "GPU box"])
        if title not in self._workers or self._random.random() < 0.2:
            self._incarnation += 1
            self._workers[title] = worker(
                title, str(self._incarnation), skill=self._random.choice([4, 7, 10]), slots=4
            )
        return self._workers[title]

    def _connect(self) -> list[e.Event]:
        return [Connect(worker=self._profile())]

    def _heartbeat(self) -> list[e.Event]:
        return [
            Heartbeat(worker=worker_profile, holds=()) for worker_profile in self._workers.values()
        ]

    def _disconnect(self) -> list[e.Event]:
        worker_profile = self._profile()
        return [
            Disconnect(
                worker=worker_profile.name, incarnation=worker_profile.incarnation, reason="bye"
            )
        ]

    def _some_assignments(self) -> list[c.Assign]:
        recent = self._assigned[-12:]
        return self._random.sample(recent, min(len(recent), self._random.randint(1, 4)))

    def _report(self) -> list[e.Event]:
        return [
            TaskResults(
                worker=one.worker.name,
                incarnation=one.worker.incarnation,
                results=(self._result(one),),
            )
            for one in self._some_assignments()
        ]

    def _result(self, of: c.Assign) -> TaskResult:
        outcomes = [Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED, Outcome.TIMED_OUT]
        outcome = self._random.choice([*outcomes, Outcome.RETURNED, Outcome.REFUSED])
        return TaskResult(
            run=of.key[0],
            id=of.key[1],
            attempt=max(1, of.attempt - self._random.choice([0, 0, 0, 1])),
            outcome=outcome,
            output=self._random.choice(_OUTPUTS),
            error=None if outcome is Outcome.SUCCEEDED else "it's no use",
            started_at=self._random.choice([None, self._now - 1]),
            finished_at=self._random.choice([None, self._now - 0.25]),
        )

    def _progress(self) -> list[e.Event]:
        return [
            Progress(
                worker=one.worker.name,
                incarnation=one.worker.incarnation,
                items=(ProgressItem(**_ref(one).model_dump(), at=self._now),),
            )
            for one in self._some_assignments()
        ]

    def _return(self) -> list[e.Event]:
        return [
            e.AssignmentReturned(one.worker.name, one.worker.incarnation, (_ref(one),))
            for one in self._some_assignments()[:1]
        ]

    def _cancel(self) -> list[e.Event]:
        if not self._tasks:
            return []
        run, id = self._random.choice(list(self._tasks))
        ids = None if self._random.random() < 0.1 else (id,)
        return [e.CancelRequested("q", run, ids, "cancelled")]

    def _retry(self) -> list[e.Event]:
        ended = [
            key
            for key, known in self._known.items()
            if known.status.is_terminal and known.status is not SUCCEEDED
        ]
        some = self._random.sample(ended, min(len(ended), self._random.randint(1, 3)))
        again = tuple(
            e.StoredTask(
                key,
                self._tasks[key].seq,
                self._tasks[key].task,
                self._known[key].fingerprint,
                self._known[key].status,
                self._attempts[key],
            )
            for key in some
        )
        return [e.RetryRequested("q", again, dict(self._known))] if again else []


def _ref(of: c.Assign) -> AttemptRef:
    return AttemptRef(run=of.key[0], id=of.key[1], attempt=of.attempt)


CONNECTED = c.SaveWorker(ADA, WorkerEventKind.CONNECTED, "", 50.0)
