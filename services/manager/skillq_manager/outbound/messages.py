"""Messages to workers and listeners, from plain fields.

Each field was validated when it came in. To make models of them first would take five times as long.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import JsonValue
from pydantic_core import to_json

from skillq.messages import (
    SCHEMA_VERSION,
    STATUS_TEXT,
    AttemptRef,
    TaskAssignment,
    TaskStatus,
    WorkerProfile,
)
from skillq.transport import Outgoing
from skillq_manager.core import commands as c
from skillq_manager.core.model import TaskKey
from skillq_manager.core.rules.lifecycle import ASSIGNED, READY, RUNNING
from skillq_manager.store.base import Body

Fields = dict[str, Any]

_PRIORITY = TaskAssignment.model_fields["priority"].default


def assignment(key: TaskKey, attempt: int, body: Body) -> Fields:
    """What a `TaskAssignment` has, without what is as by default."""
    like = body.like
    item: Fields = {
        "run": key[0],
        "id": key[1],
        "attempt": attempt,
        "task_type": like.type,
        "difficulty": like.difficulty,
    }
    if like.priority != _PRIORITY:
        item["priority"] = like.priority
    if body.description:
        item["description"] = body.description
    if like.requires:
        item["requires"] = like.requires
    if body.payload:
        item["payload"] = body.payload
    if body.dependencies:
        item["dependencies"] = body.dependencies
    if like.timeout is not None:
        item["timeout"] = like.timeout
    return item


def attempt_ref(item: Fields) -> AttemptRef:
    return AttemptRef(run=item["run"], id=item["id"], attempt=item["attempt"])


def assignments(worker: WorkerProfile, store: str, items: Sequence[Fields]) -> Outgoing:
    """As an `Assignments`."""
    return _outgoing(
        "assignment",
        persistent=True,
        worker=worker.name,
        incarnation=worker.incarnation,
        store=store,
        tasks=items,
    )


def events(run: str, task_type: str, items: Sequence[Fields]) -> Outgoing:
    """As a `TaskEvents`."""
    return _outgoing("task_events", persistent=False, run=run, task_type=task_type, events=items)


def _outgoing(type: str, *, persistent: bool, **fields: object) -> Outgoing:
    # What is no number is null, as models write it: JSON has no word for it.
    body = to_json({"type": type, "schema_version": SCHEMA_VERSION} | fields, inf_nan_mode="null")
    return Outgoing(body, type, persistent=persistent)


TaskEventFields = tuple[
    str, str, Fields
]  # the run and the type of a task, and what a `TaskEvent` has


def task_events(decided: c.Decisions) -> Iterator[TaskEventFields]:
    """What is told of tasks. A new one that is given out at once is not told of as ready: that is over."""
    given = {command.key for command in decided.of_kind(c.Assign)}
    for added in decided.of_kind(c.AddTask):
        if added.key not in given or added.status is not READY:
            yield _event(added, added.task.type, added.status, 0)
    for again in decided.of_kind(c.Reopen):
        yield _event(again, again.task_type, again.status, again.attempt, reason="sent again")
    for began in decided.of_kind(c.StartAttempt):
        yield _event(began, began.task_type, RUNNING, began.attempt, began.worker)
    for end in decided.of_kind(c.EndAttempt):
        output = end.result.output if end.result else None
        yield _event(
            end,
            end.task_type,
            end.status,
            end.attempt,
            end.worker,
            reason=end.reason,
            output=output,
        )
    # What an attempt's end leads to, and what is called off, comes after it.
    for moved in decided.of_kind(c.SetStatus):
        yield _event(moved, moved.task_type, moved.status, moved.attempt, reason=moved.reason)
    for gave in decided.of_kind(c.Assign):
        yield _event(gave, gave.task_type, ASSIGNED, gave.attempt, gave.worker)


def _event(
    command: c.AddTask | c.Reopen | c.SetStatus | c.StartAttempt | c.EndAttempt | c.Assign,
    task_type: str,
    status: TaskStatus,
    attempt: int,
    worker: WorkerProfile | None = None,
    *,
    reason: str | None = None,
    output: JsonValue = None,
) -> TaskEventFields:
    run, id = command.key
    # What is as by default is left out.
    event: Fields = {"id": id, "status": STATUS_TEXT[status], "attempt": attempt, "at": command.at}
    if worker is not None:
        event["worker"] = worker.title
    if reason is not None:
        event["reason"] = reason
    if output is not None:
        event["output"] = output
    return run, task_type, event
