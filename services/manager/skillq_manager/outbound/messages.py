"""Builds assignments and task events from plain dicts, without pydantic models.

Every field was validated when it arrived. Messages made with models would take five times as long.
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
    """Return the fields of a `TaskAssignment`, without those that have their default value."""
    spec = body.like
    item: Fields = {
        "run": key[0],
        "id": key[1],
        "attempt": attempt,
        "task_type": spec.type,
        "difficulty": spec.difficulty,
    }
    if spec.priority != _PRIORITY:
        item["priority"] = spec.priority
    if body.description:
        item["description"] = body.description
    if spec.requires:
        item["requires"] = spec.requires
    if body.payload:
        item["payload"] = body.payload
    if body.dependencies:
        item["dependencies"] = body.dependencies
    if spec.timeout is not None:
        item["timeout"] = spec.timeout
    return item


def attempt_ref(item: Fields) -> AttemptRef:
    """Return the attempt of the fields of an assignment."""
    return AttemptRef(run=item["run"], id=item["id"], attempt=item["attempt"])


def assignments(worker: WorkerProfile, store: str, items: Sequence[Fields]) -> Outgoing:
    """Return an `Assignments` message for one worker; `items` are fields of assignments."""
    return _outgoing(
        "assignment",
        persistent=True,
        worker=worker.name,
        incarnation=worker.incarnation,
        store=store,
        tasks=items,
    )


def events(run: str, task_type: str, items: Sequence[Fields]) -> Outgoing:
    """Return a `TaskEvents` message; `items` are fields of task events of one run and type."""
    return _outgoing("task_events", persistent=False, run=run, task_type=task_type, events=items)


def _outgoing(type: str, *, persistent: bool, **fields: object) -> Outgoing:
    # JSON has no infinity and no NaN: they become null, as in messages made from models.
    body = to_json({"type": type, "schema_version": SCHEMA_VERSION} | fields, inf_nan_mode="null")
    return Outgoing(body, type, persistent=persistent)


# The run and the type of a task, and the fields of a `TaskEvent`.
TaskEventFields = tuple[str, str, Fields]


def task_events(decisions: c.Decisions) -> Iterator[TaskEventFields]:
    """Yield the events of a round, in order; a task that is assigned at once is never `ready`."""
    assigned_keys = {command.key for command in decisions.of_kind(c.Assign)}
    for added in decisions.of_kind(c.AddTask):
        if added.key not in assigned_keys or added.status is not READY:
            yield _event(added, added.task.type, added.status, 0)
    for reopen in decisions.of_kind(c.Reopen):
        yield _event(reopen, reopen.task_type, reopen.status, reopen.attempt, reason="retried")
    for start in decisions.of_kind(c.StartAttempt):
        yield _event(start, start.task_type, RUNNING, start.attempt, start.worker)
    for end in decisions.of_kind(c.EndAttempt):
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
    # After the ends of attempts, which cause some of these changes.
    for change in decisions.of_kind(c.SetStatus):
        yield _event(change, change.task_type, change.status, change.attempt, reason=change.reason)
    for assign in decisions.of_kind(c.Assign):
        yield _event(assign, assign.task_type, ASSIGNED, assign.attempt, assign.worker)


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
    # Fields that have their default value are left out.
    event: Fields = {"id": id, "status": STATUS_TEXT[status], "attempt": attempt, "at": command.at}
    if worker is not None:
        event["worker"] = worker.title
    if reason is not None:
        event["reason"] = reason
    if output is not None:
        event["output"] = output
    return run, task_type, event
